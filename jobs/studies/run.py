"""A study from its channels to its table: children one after the other, results in the sweep's folder and in MLflow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from channels.files import clear_unfinished, write_atomically
from channels.store import ChannelStore
from jobs.launch.sweep import open_parent
from jobs.studies import tables
from jobs.studies.children import run_child, waiting_children
from jobs.studies.extrapolation_table import extrapolation_scores, extrapolation_table
from jobs.studies.fig4_table import fig4
from jobs.studies.figures import draw_study
from jobs.studies.gradient_conflict import ConflictSetting, measure_conflict, shares
from jobs.studies.page import study_page
from jobs.studies.plans import check_plans
from jobs.studies.recipe_table import recipe_scores, recipe_table
from jobs.studies.spec import Child, Study, make_study_store
from jobs.studies.table2 import score_rows, table2
from jobs.studies.tables import StudyTable
from models.registry import make_spec
from orchestrator.data.reader import open_training_data
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.evaluation.score import Score
from orchestrator.report.figure import to_png, to_svg
from orchestrator.report.read_run import read_run
from orchestrator.report.record import RunRecord
from orchestrator.report.results import read_results
from orchestrator.report.results import write_results as write_scores
from orchestrator.report.rows import to_csv
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.data import DataSection
from orchestrator.spec.job import TrackingSection

Say = Callable[[str], None]
"""Takes a line about the progress."""


def run_study(study: Study, waiting: Sequence[Child], profile: Profile, options: Sequence[str], say: Say) -> list[Path]:
    """Make the channels, train the children that wait and write the table; the files of the table.

    options: of the command line, those that choose the profile.

    Raises:
        ChildFailedError: a run did not finish.
        UserError: the channels cannot be made, or a run's results cannot be read.
    """
    runs = profile.storage.runs
    clear_unfinished(sweep_folder(study, runs))
    tracker = open_parent(study.name, TrackingSection(), profile)
    tracker.tags({"wavetrain.study": study.kind, "mlflow.note.content": study.description})
    try:
        make_study_store(study, lambda name, done, total: _say_channels(say, name, done, total))
        # Finished runs are those of the channels as they are now.
        check_plans(waiting_children(study.children, runs, study.imported))
        for number, child in enumerate(waiting, start=1):
            say(f"run {number} of {len(waiting)}: {child.job.name}")
            run_child(child, runs, sweep_folder(study, runs), tracker.run_id, options)
        files = write_results(study, runs, say)
        for path in files:
            tracker.artifact(path)
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")
    return files


def _say_channels(say: Say, name: str, done: int, total: int) -> None:
    if done == total:
        say(f"channels of {name}: {total} samples")


def write_results(study: Study, runs: Path, say: Say) -> list[Path]:
    """The table of a study whose runs are all finished, into the sweep's folder; its files."""
    folder = sweep_folder(study, runs)
    if study.kind == "table2":
        scores = {child.job.name: target_scores(study, child, runs, say) for child in study.children}
        rows = to_csv(score_rows(study, scores))
        return write_table(study, table2(study, scores), folder, {"table2-scores.csv": rows})
    if study.kind == "scales":
        records = finished_records(study, runs)
        scored = {"scales-scores.csv": to_csv(extrapolation_scores(study, records))}
        return write_table(study, extrapolation_table(study, records), folder, scored)
    if study.kind == "recipe":
        records = finished_records(study, runs)
        held_out = {child.job.name: held_out_scores(study, child, runs, say) for child in study.children}
        scored = {"recipe-scores.csv": to_csv(recipe_scores(study, held_out))}
        return write_table(study, recipe_table(study, records, held_out), folder, scored)
    return write_table(study, conflict_table(study, say) if study.kind == "fig1c" else runs_table(study, runs), folder)


def runs_table(study: Study, runs: Path) -> StudyTable:
    """The table of a study whose runs are all finished."""
    records = finished_records(study, runs)
    return {"table3": tables.table3, "fig3": tables.fig3, "fig4": fig4}[study.kind](study, records)


def finished_records(study: Study, runs: Path) -> dict[str, RunRecord]:
    """All runs of a study by name."""
    names = [child.job.name for child in study.children]
    return {name: read_run(RunDirectory(runs / name), "FINISHED") for name in names}


def target_scores(study: Study, child: Child, runs: Path, say: Say) -> list[Score]:
    """Scores of a finished run on the targets: its own, or beside imported channels those on the imported target."""
    target = child.job.data.target
    if target is None or study.target_store is None:
        return read_results(RunDirectory(runs / child.job.name).results, child.job.data.shot)
    return imported_scores(child, runs, study.store, (target,), say)


def held_out_scores(study: Study, child: Child, runs: Path, say: Say) -> list[Score]:
    """Scores of a finished run on the held-out sets of the scale: its own, or those on the imported ones."""
    sets = study.scale.zeroshot_sets
    if study.imported is not None:
        return imported_scores(child, runs, study.imported.store, sets, say)
    found = read_results(RunDirectory(runs / child.job.name).results)
    return [score for score in found if score.set_name in sets]


def imported_scores(child: Child, runs: Path, store: Path, names: Sequence[str], say: Say) -> list[Score]:
    """Scores of a finished run on held-out sets of an imported store.

    They are kept in the run's folder, beside its scores on made channels, under the fingerprint of the store.
    """
    directory, shot = RunDirectory(runs / child.job.name), child.job.data.shot
    kept = directory.results / f"imported-{ChannelStore.open(store).fingerprint[:16]}"
    found = read_results(kept, shot)
    if lacking := [name for name in names if name not in {score.set_name for score in found}]:
        say(f"scoring {child.job.name} on the imported {', '.join(lacking)}")
        for name in lacking:
            data = child.job.data.model_copy(update={"target": None, "zeroshot_sets": (name,), "store": store})
            job = child.job.model_copy(update={"data": data})
            found = [*found, *evaluate_set(directory.export, store, name, job)]
        write_scores(found, kept, shot)
    return [score for score in found if score.set_name in names]


def conflict_table(study: Study, say: Say) -> StudyTable:
    """The table of Fig. 1c, from gradients that are taken in this process."""
    scale = study.scale
    spec = make_spec("hetercsi", {"size": scale.model, "position": scale.position})
    catalogue, data = open_training_data(DataSection(store=study.store), spec, study.seed)
    setting = ConflictSetting(scale.gradient_epochs, scale.gradient_batches, scale.gradient_lr, study.seed)
    found = measure_conflict(
        data, catalogue, study.pairs, setting, lambda epoch: say(f"epoch {epoch} of {setting.epochs}")
    )
    return tables.fig1c(study, shares(found))


def write_table(study: Study, table: StudyTable, folder: Path, more: Mapping[str, str] | None = None) -> list[Path]:
    """CSV, Markdown, HTML and PNG into a folder, and more files by name; their paths."""
    figure = draw_study(study.kind, table)
    files: dict[str, str | bytes] = {
        f"{study.kind}.csv": to_csv(tables.to_rows(table)),
        f"{study.kind}.md": tables.to_markdown(table),
        f"{study.kind}.html": study_page(table, to_svg(figure)),
        f"{study.kind}.png": to_png(figure),
        **(more or {}),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def sweep_folder(study: Study, runs: Path) -> Path:
    """Where the specs of the children and the table lie; it is made."""
    folder = runs / f"{study.name}.sweep"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
