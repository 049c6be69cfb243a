"""Table II: every method on every target set, zero-shot and full-shot, beside the published figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.studies.rivals import REFERENCES, SNAPSHOTS
from jobs.studies.spec import PRESET, Child, Study
from jobs.studies.tables import TASKS, Cell, StudyTable, scale_note
from models.interface import caveats
from models.registry import make_spec
from orchestrator.evaluation.score import AVERAGE, MODEL, NOISY, PREDICTOR_NAMES, Score, decibels
from orchestrator.report.published import published

LABELS = {"hetercsi": "HeterCSI", "wifo": "WiFo", "lstm": "LSTM", "transformer": "Transformer", "llm4cp": "LLM4CP",
          "bert4mimo": "BERT4MIMO"}  # fmt: skip
STATISTICS = "lmmse"
"""The prediction without training that takes its covariance from the target's training samples."""
APART = {"reconstruction": "BERT4MIMO"}
"""By task, a model that solves another problem than the others: it takes no part in the best of a row."""
PUBLISHED_SETS = tuple(f"D{number}" for number in range(1, 13))

Errors = Mapping[tuple[str, str, str], float]
"""Linear NMSE by (method, task, set)."""


def table2(study: Study, scores: Mapping[str, Sequence[Score]]) -> StudyTable:
    """Rows by task and set, then their average; a column a method, the best of a row marked, then the published ones.

    scores: of the runs by name, on the test samples of the targets.
    """
    errors = _errors(study, scores)
    methods = list(dict.fromkeys(method for method, _, _ in errors))
    figures = published(PRESET)["table2"]
    theirs = list(dict.fromkeys(method for task in TASKS for method in figures[task]))
    targets = study.scale.rivals.targets
    rows: list[tuple[Cell, ...]] = []
    marked = set()
    for task in TASKS:
        for name in (*targets, AVERAGE):
            ours = [_error(errors, method, task, name, targets) for method in methods]
            compared = {
                method: value
                for method, value in zip(methods, ours, strict=True)
                if value is not None and method != APART.get(task)
            }
            best = min(compared, key=compared.__getitem__) if compared else None
            if best is not None:
                marked.add((len(rows), 2 + methods.index(best)))
            published_cells = [_published(figures[task].get(method), name, targets) for method in theirs]
            rows.append((task, name, *ours, best, *published_cells))
    full = {LABELS[child.method] for child in study.children if child.job.data.target is not None}
    saw = dict.fromkeys(full, "full-shot") | {PREDICTOR_NAMES[STATISTICS]: "target's statistics"}
    heads = [f"{method} ({saw[method]})" if method in saw else method for method in methods]
    return StudyTable(
        title="Table II: zero-shot and full-shot errors, dB",
        columns=("task", "set", *heads, "best", *(f"{method}, published" for method in theirs)),
        rows=tuple(rows),
        notes=_notes(study),
        digits={},
        marked=frozenset(marked),
    )


def score_rows(study: Study, scores: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """Every score, a row each, also against the clean channel and of directions; for CSV."""
    return [
        {
            "task": score.task, "set": score.set_name, "method": _method(child, score),
            "shot": _shot(child, score), "target": score.target,
            "samples": score.samples, "nmse_db": score.decibels, "sgcs": score.sgcs, "se_share": score.se_share,
        }
        for child in study.children
        for score in scores[child.job.name]
    ]  # fmt: skip


def _shot(child: Child, score: Score) -> str:
    """What a method has seen of the target."""
    if score.predictor == MODEL:
        return child.job.data.shot
    return "statistics" if score.predictor == STATISTICS else "none"


def _errors(study: Study, scores: Mapping[str, Sequence[Score]]) -> Errors:
    """Against the noisy target, as published: models in the order of the runs, then predictions without training."""
    found = {
        (_method(child, score), score.task, score.set_name): (score.predictor, score.nmse)
        for child in study.children
        for score in scores[child.job.name]
        if score.target == NOISY and score.predictor in (MODEL, *REFERENCES)
    }
    models = {who: nmse for who, (predictor, nmse) in found.items() if predictor == MODEL}
    return models | {who: nmse for who, (predictor, nmse) in found.items() if predictor != MODEL}


def _method(child: Child, score: Score) -> str:
    return LABELS[child.method] if score.predictor == MODEL else PREDICTOR_NAMES[score.predictor]


def _error(errors: Errors, method: str, task: str, name: str, targets: Sequence[str]) -> float | None:
    """In dB; the average only of a method that has an error on every target."""
    linear = [errors.get((method, task, target)) for target in (targets if name == AVERAGE else (name,))]
    known = [value for value in linear if value is not None]
    return decibels(sum(known) / len(known)) if len(known) == len(linear) else None


def _published(figures: Mapping[str, Any] | None, name: str, targets: Sequence[str]) -> float | None:
    """In dB, the average over the targets of the table; of all twelve as the paper states it."""
    if figures is None or not set(targets) <= set(PUBLISHED_SETS):
        return None
    rows = dict(zip(PUBLISHED_SETS, figures["rows"], strict=True))
    if name != AVERAGE:
        return float(rows[name])
    if set(targets) == set(PUBLISHED_SETS):
        return float(figures["average"])
    return decibels(sum(10 ** (rows[target] / 10) for target in targets) / len(targets))


def _notes(study: Study) -> tuple[str, ...]:
    rivals = study.scale.rivals
    trained = (
        f"Full-shot: trained on at most {rivals.samples} training samples of the target alone, epochs: "
        f"{rivals.target_epochs}, batches of {rivals.batch} (BERT4MIMO {SNAPSHOTS * rivals.batch} slots); one model "
        "for each set and task. LMMSE takes its covariance from training samples of the target. All others have not "
        "seen the target."
    )
    if study.target_store is not None:
        trained += (
            " Not all imported targets bring training samples, so full-shot models are trained on channels that were "
            "made here with the targets' parameters and scored on the imported ones, which hurts them."
        )
    imported = study.imported
    lacking = [] if imported is None else [name for name in rivals.targets if name not in imported.trained]
    said = dict.fromkeys(
        f"{LABELS[child.method]}: {line}"
        for child in study.children
        for line in caveats(make_spec(child.job.model.name, child.job.model.options))
    )
    return (
        "NMSE against the noisy target (-20.04 dB is the least at 20 dB noise); the average is that of linear values. "
        "* is the best of our methods in a row. PAD, Prony, LMMSE and repeat last need no training; they are "
        "scored on the true future, the published PAD was not.",
        "In reconstruction BERT4MIMO fills in hidden subcarriers of single slots, HeterCSI and WiFo hidden patches of "
        "whole samples. That is another problem: its errors are to be read apart and take no part in the best.",
        trained,
        *([f"No LMMSE on {', '.join(lacking)}: imported without training samples to take it from."] if lacking else []),
        *said,
        *study.left_out,
        scale_note(study),
    )
