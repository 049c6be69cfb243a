"""The sentences at the top of a report: what a group lead takes away."""

from collections.abc import Callable, Sequence

from orchestrator.report.record import RunRecord
from orchestrator.run.progress import clock

LEVEL_DB = 0.1
"""Zero-shot errors that differ by less count as equal."""

Measure = Callable[[RunRecord], float | None]


def summary(records: Sequence[RunRecord]) -> list[str]:
    """One sentence a run where there is one; comparisons where there are several."""
    if len(records) == 1:
        return [_state(records[0]), *_figures(records[0])]
    return [
        *_compared(records, lambda record: record.padding, min, ("padded least", "padding"), _percent),
        *_fastest(records),
        *_best_zeroshot(records),
        *[_state(record) for record in records if record.status != "FINISHED"],
    ]


def _state(record: RunRecord) -> str:
    share = f"{record.done:,} of {record.total_steps:,} steps"
    match record.status:
        case "FINISHED":
            return f"{record.name} has finished: {record.job.train.epochs} epochs, {share}."
        case "RUNNING":
            return f"{record.name} is running: {share} are done, so its figures are provisional."
        case _:
            because = f": {record.reason}" if record.reason else ""
            return f"{record.name} ended {record.status} after {share}{because}."


def _figures(record: RunRecord) -> list[str]:
    found = []
    if record.padding is not None:
        found.append(f"{_percent(record.padding)} of the computed tokens were padding")
    if record.throughput is not None:
        found.append(f"it trained at {_speed(record.throughput)}")
    sentences = [f"{' and '.join(found)}.".capitalize()] if found else []
    if record.task_averages:
        parts = ", ".join(f"{_decibels(value)} in {task}" for task, value in record.task_averages.items())
        target = record.job.data.target
        where = "sets it has never seen" if target is None else f"{target}, which alone it was trained on,"
        sentences.append(f"On {where} its error is {parts}.")
    return sentences


def _fastest(records: Sequence[RunRecord]) -> list[str]:
    sentences = _compared(records, lambda record: record.throughput, max, ("trained fastest", "speed"), _speed)
    models = {record.job.model.model_dump_json() for record in records}
    hardware = {(attempt.workers, attempt.device) for record in records for attempt in record.attempts[-1:]}
    differing = [what for what, found in (("models", models), ("workers or devices", hardware)) if len(found) > 1]
    if sentences and differing:
        sentences.append(f"The runs had different {' and '.join(differing)}, which speed depends on.")
    return sentences


def _best_zeroshot(records: Sequence[RunRecord]) -> list[str]:
    scored = [record for record in records if record.scores and not record.is_fullshot]
    if len({frozenset((score.task, score.set_name) for score in record.scores) for record in scored}) > 1:
        return ["The runs were scored on different sets or tasks, so that their errors are not compared."]
    errors = {record.name: record.zeroshot for record in scored if record.zeroshot is not None}
    if len(errors) > 1 and max(errors.values()) - min(errors.values()) < LEVEL_DB:
        all_errors = ", ".join(f"{_decibels(error)} of {name}" for name, error in errors.items())
        return [f"Their zero-shot errors are level within {LEVEL_DB} dB ({all_errors})."]
    return _compared(records, lambda record: record.zeroshot, min, ("generalised best", "zero-shot error"), _decibels)


def _compared(
    records: Sequence[RunRecord],
    measure: Measure,
    choose: Callable[[Sequence[float]], float],
    words: tuple[str, str],
    as_text: Callable[[float], str],
) -> list[str]:
    """Such as "A padded least (5 %, against 36 % of B)." where at least two runs have the figure."""
    known = {record.name: value for record in records if (value := measure(record)) is not None}
    if len(known) < 2:
        return []
    best = choose(list(known.values()))
    winners = [name for name, value in known.items() if as_text(value) == as_text(best)]
    others = [f"{as_text(value)} of {name}" for name, value in known.items() if name not in winners]
    if not others:
        return [f"All runs have the same {words[1]} ({as_text(best)})."]
    missing = [record.name for record in records if record.name not in known]
    lacking = f"; {', '.join(missing)} has no such figure yet" if missing else ""
    return [f"{_joined(winners)} {words[0]} ({as_text(best)}, against {', '.join(others)}{lacking})."]


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _speed(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f} valid tokens/s"


def _decibels(value: float) -> str:
    return f"{value:.2f} dB"


def duration(seconds: float) -> str:
    """Seconds below two minutes with one digit, else m:ss or h:mm:ss."""
    return f"{seconds:.1f} s" if seconds < 120 else clock(seconds)
