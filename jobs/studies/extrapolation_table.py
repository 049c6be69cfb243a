"""The study of scales: errors on held-out sets of lengths that were trained and on longer ones, by positions."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.studies.extrapolation import tokens_by_set
from jobs.studies.spec import Child, Study
from jobs.studies.tables import TASKS, Cell, StudyTable, mean_error, scale_note
from orchestrator.evaluation.score import AVERAGE, MODEL
from orchestrator.report.record import RunRecord

COLUMNS = ("task", "positions", "longest sets", "trained up to, tokens", "steps", "NMSE dB, lengths trained",
           "NMSE dB, longer", "lost without them, dB")  # fmt: skip


def extrapolation_table(study: Study, records: Mapping[str, RunRecord]) -> StudyTable:
    """Rows by task, then their average, run by run. records: finished runs by name."""
    tokens = tokens_by_set(study.preset.zeroshot)
    trained = _trained(study)
    seen = [name for name, length in tokens.items() if length <= trained]
    longer = [name for name in tokens if name not in seen]
    rows: list[tuple[Cell, ...]] = []
    for task in (*TASKS, AVERAGE):
        errors = {
            child.job.name: {
                part: mean_error(records[child.job.name].scores, task, sets)
                for part, sets in (("seen", seen), ("longer", longer))
            }
            for child in study.children
            if child.job.name in records
        }
        for child in study.children:
            own = errors.get(child.job.name, {})
            rows.append((
                task, _position(child), child.method, _longest(study, child),
                records[child.job.name].done if own else None, own.get("seen"), own.get("longer"),
                _lost(study, child, errors),
            ))  # fmt: skip
    return StudyTable(
        title="Scales: held-out sets longer than any that was trained",
        columns=COLUMNS,
        rows=tuple(rows),
        notes=(
            f"Zero-shot NMSE, dB of the linear mean over sets. Lengths trained, at most {trained} tokens: "
            f"{_list(seen, tokens)}. Longer: {_list(longer, tokens)}.",
            "Lost: error on the longer sets of the run without the longest sets over that of the run with them. What "
            "all positions lose is due to the data; what some lose beyond that is due to the positions.",
            "All runs have as many samples and steps; a step with the longest sets has more tokens. flat positions "
            "beyond the longest that was trained were never seen, as in the published curve from 32 to 40 sets, of "
            "which P37 is the first as long as D8 and D12.",
            *study.left_out,
            scale_note(study),
        ),
        digits={},
    )


def extrapolation_scores(study: Study, records: Mapping[str, RunRecord]) -> list[dict[str, Any]]:
    """Every score of the models, a row each; for CSV."""
    tokens = tokens_by_set(study.preset.zeroshot)
    return [
        {
            "task": score.task, "set": score.set_name, "tokens": tokens[score.set_name], "positions": _position(child),
            "longest_sets": child.method, "target": score.target, "samples": score.samples, "nmse_db": score.decibels,
        }
        for child in study.children
        for score in records[child.job.name].scores
        if score.predictor == MODEL
    ]  # fmt: skip


def _position(child: Child) -> str:
    return str(child.job.model.options["position"])


def _longest(study: Study, child: Child) -> int:
    """Tokens of the longest samples that a run is trained on."""
    tokens, names = tokens_by_set(study.preset.pretrain), child.job.data.sets
    assert isinstance(names, tuple)
    return max(tokens[name] for name in names)


def _trained(study: Study) -> int:
    return min(_longest(study, child) for child in study.children)


def _lost(study: Study, child: Child, errors: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """Of a run without the longest sets, against the one with them."""
    if child.method != "without":
        return None
    other = next(one for one in study.children if one.method == "with" and _position(one) == _position(child))
    own, control = (errors.get(one.job.name, {}).get("longer") for one in (child, other))
    return None if own is None or control is None else own - control


def _list(names: Sequence[str], tokens: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({tokens[name]})" for name in names) or "none"
