"""``wavetrain channels``: make, import, show and verify stores."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from channels.catalogue import Counts, make_store, select_sets
from channels.errors import UserError
from channels.files import is_there
from channels.manifest import StoredSet
from channels.presets import load_preset
from channels.progress import Progress as Report
from channels.store import ChannelStore
from channels.verify import verify as verify_store
from orchestrator.spec.data import DataSection
from orchestrator.view.console import plain_console

app = typer.Typer(
    help="Channel data: make, import, show and verify stores.", no_args_is_help=True, add_completion=False
)

_PIPED_WIDTH = 140

PATCH = 4
"""Edge of the patches by which ``show`` counts tokens."""

StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the store.")]
StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Format(StrEnum):
    """Readers that can be asked for."""

    HETERCSI = "hetercsi"
    WIFO = "wifo"
    DEEPMIMO = "deepmimo"
    COST2100 = "cost2100"
    ARRAYS = "arrays"


@app.command()
def make(
    preset: Annotated[str, typer.Option(help="Catalogue: demo, hetercsi, motivation or wimamba.")],
    store: StoreOption,
    sets: Annotated[str | None, typer.Option(help="First N pre-training sets, or names: P01,P05,D1.")] = None,
    train: Annotated[int, typer.Option(min=0, help="Training samples of each pre-training set.")] = 1000,
    val: Annotated[int, typer.Option(min=0, help="Validation samples of each pre-training set.")] = 64,
    test: Annotated[int, typer.Option(min=0, help="Test samples of each zero-shot set.")] = 128,
    zeroshot_train: Annotated[
        int, typer.Option(min=0, help="Training samples of each zero-shot set, for jobs with data.target.")
    ] = 0,
    zeroshot_val: Annotated[int, typer.Option(min=0, help="Validation samples of each zero-shot set.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda:0.")] = "cpu",
) -> None:
    """Make 3GPP TR 38.901 channels. Run again after an interruption, it makes only the missing sets."""
    chosen = select_sets(load_preset(preset), sets)
    with _progress() as report:
        make_store(store, chosen, Counts(train, val, test, zeroshot_train, zeroshot_val), seed, report, device)
    show(store)


def make_missing(section: DataSection) -> None:
    """Make the sets that a job's preset has and its store lacks.

    Raises:
        UserError: the job names no preset, or as ``make_store``.
    """
    preset, store = section.preset, section.store
    if preset is None:
        mend = "add one (name, train, val, test), or leave the option out"
        raise UserError("the job names no preset to make its store from", where="data.preset", mend=mend)
    chosen = select_sets(load_preset(preset.name), preset.chosen)
    held = ChannelStore.open(store).sets if is_there(store) else {}
    if all(spec.name in held for spec in (*chosen.pretrain, *chosen.zeroshot)):
        return
    with _progress() as report:
        make_store(store, chosen, preset.counts, preset.seed, report)


@app.command("import")
def import_sets(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", readable=False, help="File, folder of sets, or folder of one set.")
    ],
    store: Annotated[Path | None, typer.Option("--store", metavar="DIR", help="Folder of the store.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is there and stop.")] = False,
    format_: Annotated[Format | None, typer.Option("--format", help="Try this reader only.")] = None,
    axes: Annotated[
        str | None, typer.Option(help="Of the array: n,t,k,a in its order; re,im for an axis of parts.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Variable that holds the channels.")] = None,
    role: Annotated[str | None, typer.Option(help="pretrain or zeroshot, for all sets.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the set; before the names of several.")] = None,
    spec: Annotated[
        Path | None, typer.Option(metavar="FILE", readable=False, help="YAML: parameters that the files lack.")
    ] = None,
    val_share: Annotated[float | None, typer.Option(help="Part that becomes val where there are no splits.")] = None,
    skip_zero: Annotated[
        bool, typer.Option("--skip-zero", help="Leave out samples that are zero, too weak or not finite.")
    ] = False,
    antennas: Annotated[int | None, typer.Option(min=1, help="DeepMIMO: elements of the array (32).")] = None,
    subcarriers: Annotated[int | None, typer.Option(min=1, help="DeepMIMO, COST2100: subcarriers (32).")] = None,
    spacing_khz: Annotated[float | None, typer.Option(min=0.001, help="DeepMIMO: subcarrier spacing (30).")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="DeepMIMO: slots, where users move (1).")] = None,
) -> None:
    """Import channels that others made: say what is there, then read it in pieces. Run again, it adds what lacks."""
    from channels.importers.axes import Axes
    from channels.importers.options import ImportOptions
    from channels.importers.spec_file import GivenParameters, read_spec_file
    from channels.importers.survey import refuse_unused, survey
    from channels.importers.write import import_sets, named_for
    from jobs.cli.survey_table import print_survey

    if store is None and not dry_run:
        raise UserError("the folder of the store is missing", where="--store", mend="give one, or --dry-run")
    options = ImportOptions(
        format=format_.value if format_ else None,
        axes=Axes.parse(axes) if axes else None,
        key=key,
        role=role,
        name=name,
        given=read_spec_file(spec) if spec else GivenParameters(),
        val_share=val_share,
        skip_zero=skip_zero,
        antennas=antennas,
        subcarriers=subcarriers,
        spacing_khz=spacing_khz,
        slots=slots,
        store=store,
    )
    found = survey(source, options)
    refuse_unused(options, found)
    found = named_for(found, store, options) if store else found
    print_survey(found, plain_console(_PIPED_WIDTH))
    if dry_run or store is None:
        typer.echo("nothing is written: --dry-run")
        return
    with _progress() as report:
        import_sets(found, store, options, report)
    show(store)


@app.command()
def show(store: StoreArgument, as_json: JsonOption = False) -> None:
    """What a store holds."""
    opened = ChannelStore.open(store)
    rows = [_row(stored) for stored in opened.sets.values()]
    if as_json:
        typer.echo(json.dumps({"path": str(opened.path), "fingerprint": opened.fingerprint, "sets": rows}, indent=1))
        return
    samples, size = sum(row["samples"] for row in rows), sum(row["bytes"] for row in rows)
    console = plain_console(_PIPED_WIDTH)
    console.print(_table(rows))
    console.print(f"{opened.path}: {len(rows)} sets, {samples:,} samples, {_size(size)}", soft_wrap=True)
    console.print(f"fingerprint {opened.fingerprint[:16]}", soft_wrap=True)


@app.command()
def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Compare every file of a store with its checksum. Exit status 1 where one is damaged."""
    faults = verify_store(store)
    if as_json:
        found = [{"file": fault.file, "what": fault.what} for fault in faults]
        typer.echo(json.dumps({"path": str(store), "whole": not faults, "faults": found}, indent=1))
    else:
        for fault in faults:
            typer.echo(f"{fault.file}: {fault.what}")
        typer.echo(f"{store}: {len(faults)} damaged or unexpected files" if faults else f"{store}: whole")
    if faults:
        raise typer.Exit(1)


def _row(stored: StoredSet) -> dict[str, Any]:
    spec = stored.spec
    size = sum(shard.bytes for split in stored.splits.values() for shard in split.shards)
    return {
        **spec.to_mapping(),
        "role": stored.role,
        "shape": list(spec.shape),
        "tokens": _tokens(spec.shape),
        "counts": {name: split.count for name, split in stored.splits.items()},
        "samples": sum(split.count for split in stored.splits.values()),
        "bytes": size,
        "mean_power": stored.mean_power,
        "origin": dict(stored.origin),
        "published": stored.origin.get("source"),
    }


def _tokens(shape: tuple[int, int, int]) -> int:
    blocks = [-(-edge // PATCH) for edge in shape]
    return blocks[0] * blocks[1] * blocks[2]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(caption=f"scale: slots x subcarriers x antennas; tokens: patches of {PATCH}x{PATCH}x{PATCH}")
    imported = any(row["published"] for row in rows)
    table.add_column("set", overflow="fold")
    if imported:
        table.add_column("imported from", overflow="fold")
    table.add_column("role")
    for name in ("scale", "tokens", "GHz"):
        table.add_column(name, justify="right")
    table.add_column("scenario")
    for name in ("samples", "size", "power"):
        table.add_column(name, justify="right")
    for row in rows:
        sight = {True: " LoS", False: " NLoS", None: ""}[row["los"]]
        table.add_row(
            row["name"],
            *([row["published"] or ""] if imported else []),
            row["role"],
            "x".join(str(edge) for edge in row["shape"]),
            str(row["tokens"]),
            "?" if "fc_ghz" in row["origin"].get("assumed", ()) else f"{row['fc_ghz']:g}",
            row["scenario"] + sight,
            " + ".join(f"{count:,} {split}" for split, count in row["counts"].items()),
            _size(row["bytes"]),
            f"{row['mean_power']:.2e}",
        )
    return table


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


@contextmanager
def _progress() -> Iterator[Report]:
    """A line a finished set; on a terminal, a bar for the one under way below them."""
    console = plain_console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)
            if done == total:
                bars.remove_task(tasks.pop(name))
                console.print(f"{name}: {total:,} samples")

        yield advance


def _line(name: str, done: int, total: int) -> None:
    if done == total:
        typer.echo(f"{name}: {total:,} samples", err=True)
