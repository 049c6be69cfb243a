"""Tables of the studies, ours beside the published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from channels.presets import load_preset
from jobs.studies.gradient_conflict import RELATIONS
from jobs.studies.spec import PRESET, Study
from orchestrator.evaluation.score import AVERAGE, MODEL, NOISY, Score, decibels
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord
from samplers.catalogue import catalogue_of_specs
from samplers.plan import make_plan
from samplers.segmentation import Constraints

Cell = str | int | float | None
PUBLISHED_SAMPLES, PUBLISHED_BATCH = 9000, 128
TASKS = ("reconstruction", "time", "frequency")


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A table with its notes; floats are rounded to the digits of their column (2 by default)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    digits: Mapping[str, int]
    marked: frozenset[tuple[int, int]] = frozenset()
    """Rows and columns of cells that are marked with a star."""

    def cells(self) -> list[list[str]]:
        """All rows as text; what there is no figure for is empty."""
        return [
            [
                _as_text(cell, self.digits.get(name, 2)) + (" *" if (line, column) in self.marked else "")
                for column, (name, cell) in enumerate(zip(self.columns, row, strict=True))
            ]
            for line, row in enumerate(self.rows)
        ]

    def column(self, name: str) -> list[Cell]:
        """One column."""
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def _as_text(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)


def table3(study: Study, records: Mapping[str, RunRecord]) -> StudyTable:
    """Strategies by number of sets: padding at the published counts, and what the runs of the study measured.

    records: finished runs by name. Times are relative to alternating batches of the same sets, ours and theirs.
    """
    figures = published(PRESET)["table3"]
    methods = dict.fromkeys(child.method for child in study.children)
    rows = []
    for column, sets in enumerate(figures["sets"]):
        runs = {child.method: records.get(child.job.name) for child in study.children if child.sets == sets}
        for method in methods:
            theirs, run = figures.get(method), runs.get(method)
            rows.append((
                sets, method, planned_padding(study, method, sets),
                None if theirs is None else float(theirs["padding"][column]),
                None if run is None or run.padding is None else 100 * run.padding,
                relative(minutes(run), minutes(runs.get("alternating"))),
                None if theirs is None else theirs["minutes"][column] / figures["alternating"]["minutes"][column],
                minutes(run), None if run is None else run.zeroshot,
            ))  # fmt: skip
    columns = ("sets", "batching", "planned padding %", "published padding %", "run: padding %", "run: relative time",
               "published relative time", "run: min/epoch", "run: NMSE dB")  # fmt: skip
    return StudyTable(
        title="Table III: padding and time an epoch",
        columns=columns,
        rows=tuple(rows),
        notes=(
            f"Planned padding: {PUBLISHED_SAMPLES:,} samples a set, batches of {PUBLISHED_BATCH}, as published; "
            "bucket_B has B buckets of equal size, optimal_4 four exact ones with at least two sets in each.",
            "Relative time: minutes an epoch over those of alternating batches of the same sets.",
            scale_note(study),
        ),
        digits={"run: min/epoch": 3},
    )


def planned_padding(study: Study, method: str, sets: int) -> float:
    """Padding in % at the published counts, of the first ``sets`` sets; needs no data."""
    batching = next(child.job.batching for child in study.children if child.method == method)
    plan = make_plan(
        catalogue_of_specs(load_preset(PRESET).pretrain[:sets], PUBLISHED_SAMPLES),
        strategy=batching.strategy,
        method=batching.method,
        buckets=batching.buckets,
        batch=PUBLISHED_BATCH,
        constraints=Constraints(min_sources=batching.min_sources),
    )
    return 100 * plan.padding


def fig3(study: Study, records: Mapping[str, RunRecord]) -> StudyTable:
    """Zero-shot error by task, number of pre-training sets and strategy."""
    figures = published(PRESET)["fig3"]
    rows = []
    for task in TASKS:
        for child in study.children:
            run, curve = records.get(child.job.name), figures[task].get(child.method)
            column = figures["sets"].index(child.sets) if child.sets in figures["sets"] else None
            rows.append((
                task, child.sets, child.method, None if run is None else run.task_averages.get(task),
                None if curve is None or column is None else float(curve[column]),
            ))  # fmt: skip
    sets = "D1 to D12" if len(study.scale.zeroshot_sets) == 12 else ", ".join(study.scale.zeroshot_sets)
    other = "The sets are imported ones, not the first so many of the paper. " if study.imported else ""
    return StudyTable(
        title="Fig. 3: number of pre-training sets",
        columns=("task", "sets", "batching", "NMSE dB", "published NMSE dB"),
        rows=tuple(rows),
        notes=(
            f"Zero-shot NMSE, dB of the linear mean over {sets}; published: over D1 to D12. bucket_4: four buckets of "
            "equal size, the proposed strategy.",
            other + "A run has as many epochs at every number of sets, so more sets are also more steps.",
            *study.left_out,
            scale_note(study),
        ),
        digits={},
    )


def fig1c(study: Study, found: Mapping[str, float]) -> StudyTable:
    """Shares of pairs with a negative cosine; ``found``: by relation of the scales."""
    figures = published(PRESET)["fig1c"]
    rows = tuple(
        (relation.replace("_", " "), 100 * found[relation] if relation in found else None, float(figures[relation]))
        for relation in RELATIONS
    )
    scale = study.scale
    return StudyTable(
        title="Fig. 1c: pairs of gradients with a negative cosine",
        columns=("pairs of sets", "negative cosine %", "published %"),
        rows=rows,
        notes=(
            f"{scale.gradient_batches} gradients of the temporal task of each set after every one of "
            f"{scale.gradient_epochs} epochs, weights held still, batches of 16; all pairs of batches of two sets.",
            f"The sets of the public code ({_pairs_text(study)}).",
            scale_note(study),
        ),
        digits={},
    )


def _pairs_text(study: Study) -> str:
    shapes = {row.name: "x".join(map(str, row.shape)) for row in study.preset.pretrain}
    pairs = [f"{first} {shapes[first]}, {second} {shapes[second]}" for first, second in study.pairs.values()]
    return "; ".join(f"{name.replace('_', ' ')}: {text}" for name, text in zip(study.pairs, pairs, strict=True))


def mean_error(scores: Sequence[Score], task: str, sets: Sequence[str]) -> float | None:
    """Of the model against the noisy target in dB, linear over the sets, and over the tasks for their average; None
    where a score is missing."""
    tasks = TASKS if task == AVERAGE else (task,)
    linear = {
        (score.task, score.set_name): score.nmse
        for score in scores
        if (score.predictor, score.target) == (MODEL, NOISY) and score.task in tasks and score.set_name in sets
    }
    wanted = len(tasks) * len(sets)
    return decibels(sum(linear.values()) / wanted) if linear and len(linear) == wanted else None


def scale_note(study: Study) -> str:
    """At which scale the study was made, in a sentence."""
    scale = study.scale
    shorter = f", subcarriers divided by {scale.divide_subcarriers}" if scale.divide_subcarriers > 1 else ""
    epochs = scale.rivals.epochs if study.kind == "table2" else scale.epochs
    runs = "" if study.kind == "fig1c" else f", epochs: {epochs}, batches of {scale.global_batch}"
    models = f"HeterCSI {scale.model}" + (f", WiFo {scale.rivals.wifo}" if study.kind == "table2" else "")
    channels = (
        f"{scale.samples} samples a set{shorter}, 3GPP TR 38.901 channels with the parameters of the published sets"
        if study.imported is None
        else f"imported channels, {len(study.preset.pretrain)} pre-training sets with all their samples"
    )
    return f"Scale: {models}, {channels}{runs}."


def minutes(record: RunRecord | None) -> float | None:
    """Of an epoch of a run; None where there is no such run."""
    return None if record is None else record.minutes_per_epoch


def relative(value: float | None, base: float | None) -> float | None:
    """A value over another one; None where either is missing."""
    return None if value is None or not base else value / base


def to_markdown(table: StudyTable) -> str:
    """A Markdown table under its title, notes below."""
    lines = [f"# {table.title}", "", _line(table.columns), _line(["---:"] * len(table.columns))]
    lines += [_line(row) for row in table.cells()]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_rows(table: StudyTable) -> list[dict[str, Cell]]:
    """A dictionary a row, for CSV."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]
