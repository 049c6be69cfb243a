"""What the first lines say."""

from dataclasses import replace

from orchestrator.report.read_run import read_run
from orchestrator.report.summary import summary
from orchestrator.run.folder import RunDirectory
from tests.orchestrator.report.recorded import scored


def test_the_first_lines_compare(broken_off: RunDirectory) -> None:
    record = read_run(broken_off, "FINISHED")
    better, worse = scored(record, "better", 0.1), scored(record, "worse", 0.2)
    steps = replace(worse.steps, tokens_per_s=worse.steps.tokens_per_s / 2, padding=worse.steps.padding * 2)
    lines = summary([better, replace(worse, steps=steps)])
    assert lines == [
        "better padded least (20.0 %, against 40.0 % of worse).",
        "better trained fastest (160 valid tokens/s, against 80 valid tokens/s of worse).",
        "better generalised best (-10.00 dB, against -6.99 dB of worse).",
    ]
    assert summary([better, scored(record, "other", 0.101)])[-1].startswith("Their zero-shot errors are level")
    assert "scored on different sets" in " ".join(summary([better, scored(record, "other", 0.2, ("Z1",))]))
    assert "The runs had different workers or devices" in " ".join(
        summary([better, replace(worse, steps=steps, attempts=(replace(worse.attempts[-1], workers=8),))])
    )


def test_one_run_is_described_in_full(broken_off: RunDirectory) -> None:
    lines = summary([scored(read_run(broken_off, "FINISHED"), "only", 0.1)])
    assert lines[0] == "only has finished: 2 epochs, 5 of 8 steps."
    assert lines[-1].endswith("-10.00 dB in reconstruction, -10.00 dB in time, -10.00 dB in frequency.")
