"""The end of a run's events: what is found from behind is what reading the whole file finds."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.run.event_tail import last_events, read_tail
from orchestrator.run.events import EventWriter, read_events

KINDS = ("attempt", "step", "system", "steps")


@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=40),
    padding=st.integers(0, 60),
    block=st.integers(1, 200),
    torn=st.sampled_from(["", '{"kind":"step","st', '{"kind":"attempt","step":1}']),
)
def test_the_last_events_are_those_of_the_whole_file(kinds: list[str], padding: int, block: int, torn: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with EventWriter(path) as events:
            for number, kind in enumerate(kinds):
                events.write(kind, step=number, text="x" * padding, inner={"kind": "attempt"})
        with path.open("a") as file:
            file.write(torn)
        expected = {event["kind"]: event for event in read_events(path)[0]}
        found = last_events(path, KINDS, block_bytes=block)
        assert {kind: event for kind, (_, event) in found.items()} == expected
        lines = path.read_bytes()
        assert all(lines[offset:].startswith(f'{{"kind":"{kind}"'.encode()) for kind, (offset, _) in found.items())


def write(path: Path, *kinds: str) -> None:
    with EventWriter(path) as events:
        for number, kind in enumerate(kinds):
            events.write(kind, step=number)


def test_the_tail_begins_with_the_attempt_and_the_step_that_count(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, "attempt", "step", "attempt", "step", *["system"] * 100)
    found, offset = read_tail(path, most=300)
    assert [event["step"] for event in found[:2]] == [2, 3] and 2 < len(found) < 10
    assert {event["kind"] for event in found[2:]} == {"system"}
    assert offset == path.stat().st_size


def test_an_attempt_in_the_tail_is_not_looked_for_before_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, "attempt", *["step"] * 100, "attempt", "system")
    found, _ = read_tail(path, most=120)
    assert [event["kind"] for event in found] == ["step", "attempt", "system"] and found[0]["step"] == 100
