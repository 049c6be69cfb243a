"""``wavetrain study``: an ablation of the HeterCSI paper as a sweep, and its table beside the published one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from channels.errors import UserError
from channels.files import write_atomically, write_json
from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.launch.sweep import mark_child, open_parent
from jobs.studies.spec import Child, Scale, Study, StudyName, known_scales, make_study, make_study_store
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile, load_profile
from orchestrator.spec.job import TrackingSection
from orchestrator.spec.yaml_files import differences, validate

if TYPE_CHECKING:
    from jobs.studies.tables import StudyTable
    from orchestrator.tracking.mlflow_run import Tracker

DONE = "FINISHED"


def study(
    what: Annotated[str, typer.Argument(help="table3, fig4 or fig1c.", show_default=False)],
    scale: Annotated[str, typer.Option(help="small (minutes on two cores), medium or published.")] = "small",
    samples: Annotated[int | None, typer.Option(help="Samples of a set, in place of the scale's.")] = None,
    model: Annotated[str | None, typer.Option(help="tiny, base or published, in place of the scale's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a run, in place of the scale's.")] = None,
    sets: Annotated[str | None, typer.Option(help="table3: numbers of sets that are trained, e.g. 8,40.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep.  [default: e.g. table3-small]")] = None,
    stores: Annotated[Path, typer.Option(help="Folder for the channels that are made.")] = Path("data"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of channels and runs.")] = 42,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Run an ablation of the paper at a scale and write its table; again: goes on with what is not finished."""
    kind = _kind(what)
    changes = {
        "samples": samples,
        "model": model,
        "epochs": epochs,
        "gradient_epochs": epochs,
        "table3_sets": _numbers(sets),
    }
    chosen = _scale(scale, {key: value for key, value in changes.items() if value is not None})
    planned = make_study(kind, name or f"{kind}-{scale}", chosen, stores, seed)
    profile = load_profile(cluster_file, cluster)
    if profile.launcher == "slurm":
        mend = "use a local or Ray profile; single jobs: wavetrain submit SPEC --sweep"
        raise UserError("a study runs its jobs one after the other from this process", where="--cluster", mend=mend)
    waiting = [child for child in planned.children if not is_finished(child, profile)]
    typer.echo(_plan_text(planned, waiting))
    if dry_run:
        return
    options = [f"--{key}={value}" for key, value in (("cluster", cluster), ("cluster-file", cluster_file)) if value]
    tracker = open_parent(planned.name, TrackingSection(), profile)
    tracker.tags({"wavetrain.study": kind, "mlflow.note.content": planned.description})
    try:
        _make_channels(planned)
        for number, child in enumerate(waiting, start=1):
            typer.echo(f"run {number} of {len(waiting)}: {child.job.name}")
            run_child(child, profile, planned, tracker.run_id, options)
        table = _conflict_table(planned) if kind == "fig1c" else runs_table(planned, profile)
        _write(planned, table, profile, tracker)
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end(DONE)


def _kind(what: str) -> StudyName:
    known: dict[str, StudyName] = {kind: kind for kind in get_args(StudyName)}
    if what not in known:
        raise UserError(f"no study {what!r}", where="study", mend=f"there are {', '.join(known)}")
    return known[what]


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    allowed = range(1, 41)
    if not all(part.strip().isdecimal() and int(part) in allowed for part in parts):
        raise UserError(f"{text!r} are no numbers of sets", where="--sets", mend="e.g. --sets 8,40")
    return tuple(int(part) for part in parts)


def _scale(name: str, changes: dict[str, object]) -> Scale:
    scales = known_scales()
    if name not in scales:
        raise UserError(f"no scale {name!r}", where="--scale", mend=f"there are {', '.join(scales)}")
    return validate(Scale, {**scales[name].model_dump(), **changes}, f"--scale {name}")


def is_finished(child: Child, profile: Profile) -> bool:
    """Whether the run need not be made. Raises UserError where another run has the name."""
    directory = RunDirectory(profile.storage.runs / child.job.name)
    if directory.read_state().get("status") != DONE:
        return False
    found = differences(directory.read_spec().training_identity, child.job.training_identity)
    if found:
        mend = f"give the study another --name ({found[0]})"
        raise UserError("a finished run of another study has the name", where=str(directory.path), mend=mend)
    return True


def _plan_text(planned: Study, waiting: list[Child]) -> str:
    lines = [
        f"study {planned.name}: {planned.description}",
        f"channels: {len(planned.preset.pretrain)} + {len(planned.preset.zeroshot)} sets in {planned.store}",
    ]
    if planned.kind == "fig1c":
        lines.append(f"{planned.scale.gradient_epochs} epochs in this process, no further runs")
    else:
        lines.append(f"{len(planned.children)} runs, {len(waiting)} of them to be made:")
        lines += [f"  {child.job.name}" for child in waiting]
    return "\n".join(lines)


def _make_channels(planned: Study) -> None:
    def progress(name: str, done: int, total: int) -> None:
        if done == total:
            typer.echo(f"channels of {name}: {total} samples", err=True)

    make_study_store(planned, progress)


def run_child(child: Child, profile: Profile, planned: Study, parent: str, options: list[str]) -> None:
    """Train one run to its end, as ``wavetrain train`` does. Raises typer.Exit where it does not finish."""
    directory = RunDirectory(profile.storage.runs / child.job.name)
    spec = _folder(planned, profile) / f"{child.job.name}.yaml"
    write_json(spec, child.job.model_dump(mode="json"))
    mark_child(directory, parent)
    code = _call([sys.executable, "-m", "jobs.run", str(spec), *options])
    if code:
        typer.echo(f"run {child.job.name} did not finish; the same command goes on with it", err=True)
        raise typer.Exit(code)


def _call(command: list[str]) -> int:
    """Exit code of a command. Ctrl-C reaches it by itself, SIGTERM is handed on: it writes a checkpoint and stops."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    def hand_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def runs_table(planned: Study, profile: Profile) -> "StudyTable":
    """The table of a study whose runs are all finished."""
    from jobs.studies import tables as study_tables
    from orchestrator.report.record import read_run

    names = [child.job.name for child in planned.children]
    records = {name: read_run(RunDirectory(profile.storage.runs / name), DONE) for name in names}
    make = study_tables.table3 if planned.kind == "table3" else study_tables.fig4
    return make(planned, records)


def _conflict_table(planned: Study) -> "StudyTable":
    from jobs.studies.gradient_conflict import ConflictSetting, measure_conflict, shares
    from jobs.studies.tables import fig1c
    from models.registry import make_spec
    from orchestrator.data.reader import open_training_data
    from orchestrator.spec.job import DataSection

    scale = planned.scale
    spec = make_spec("hetercsi", {"size": scale.model, "position": "grid"})
    catalogue, data = open_training_data(DataSection(store=planned.store), spec, planned.seed)
    setting = ConflictSetting(scale.gradient_epochs, scale.gradient_batches, scale.lr, planned.seed)

    def tell(epoch: int) -> None:
        typer.echo(f"epoch {epoch} of {setting.epochs}", err=True)

    return fig1c(planned, shares(measure_conflict(data, catalogue, setting, tell)))


def _write(planned: Study, table: "StudyTable", profile: Profile, tracker: "Tracker") -> None:
    """CSV, Markdown, HTML and PNG into the sweep's folder and the parent's artifacts."""
    from jobs.studies.pictures import draw_study
    from jobs.studies.tables import to_markdown, to_rows
    from orchestrator.report.figures import to_png, to_svg
    from orchestrator.report.page import render_table
    from orchestrator.report.tables import to_csv

    figure = draw_study(planned.kind, table)
    cells = (table.columns, table.cells())
    files: dict[str, str | bytes] = {
        "csv": to_csv(to_rows(table)),
        "md": to_markdown(table),
        "html": render_table(table.title, *cells, table.notes, to_svg(figure)),
        "png": to_png(figure),
    }
    folder = _folder(planned, profile)
    for ending, content in files.items():
        path = folder / f"{planned.kind}.{ending}"
        write_atomically(path, content)
        tracker.artifact(path)
    typer.echo(to_markdown(table))
    typer.echo(f"written to {folder}: {', '.join(f'{planned.kind}.{ending}' for ending in files)}")


def _folder(planned: Study, profile: Profile) -> Path:
    folder = profile.storage.runs / f"{planned.name}.sweep"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
