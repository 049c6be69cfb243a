"""``wavetrain downstream``: what the embeddings of encoders are worth on other tasks, by share of the labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from channels.errors import UserError
from channels.files import is_file
from jobs.cli.options import ClusterFileOption, ClusterOption, SetOption
from jobs.launch.run_list import find_run
from orchestrator.spec.cluster import Profile, load_profile, run_folders

RAW, CONFIG = "raw", "config.json"
"""The encoder that is none (orchestrator.downstream.spec); what a folder holds that is an export (models.export)."""


def downstream(
    encoders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENCODER...]", help="Run, folder of an export, or raw; NAME=... says how tables call it."
        ),
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="YAML file of a comparison; options win over it.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store with channels and labels.")] = None,
    sets: Annotated[str | None, typer.Option(help="Sets, e.g. canyon,munich (default: all).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks, shipped or YAML files (default: the four).")] = None,
    patches: Annotated[str | None, typer.Option(help="Patch sides, e.g. 4,6,8.")] = None,
    shares: Annotated[str | None, typer.Option(help="Percent of the labels, e.g. 20,100.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Repetitions.")] = None,
    split: Annotated[str | None, typer.Option(help="region, scenario, random or stored.")] = None,
    test: Annotated[str | None, typer.Option(help="Split by scenario: sets or scenarios that are tested.")] = None,
    unfreeze: Annotated[int | None, typer.Option(help="Last layers of the encoders that are trained too.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the comparison.")] = None,
    overrides: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Train small heads on the embeddings of frozen encoders and write Fig. 3 of the WiMamba paper; again: goes on."""
    profile = load_profile(cluster_file, cluster)
    if profile.launcher == "slurm":
        mend = "use a local or Ray profile"
        raise UserError("a comparison works from this process", where="--cluster", mend=mend)
    given = {
        "name": name, "store": None if store is None else str(store), "sets": _texts(sets), "tasks": _texts(tasks),
        "patches": _numbers(patches, "--patches"), "shares": _numbers(shares, "--shares"), "seeds": seeds,
        "unfreeze": unfreeze, "encoders": _named(encoders),
    }  # fmt: skip
    folders = run_folders(cluster_file, cluster)
    _run(_mapping(spec, given, split, test), list(overrides or ()), str(spec or "options"), profile, folders)


def _run(
    mapping: Mapping[str, Any], overrides: Sequence[str], where: str, profile: Profile, runs: Sequence[Path]
) -> None:
    # They import torch.
    from jobs.launch.comparison import run_comparison
    from orchestrator.downstream.results.write import MARKDOWN
    from orchestrator.downstream.spec import make_comparison

    comparison = make_comparison(mapping, overrides, where)
    found = {name: export_of(name, text, runs) for name, text in comparison.encoders.items()}
    files = run_comparison(comparison, found, profile, lambda line: typer.echo(line, err=True))
    typer.echo(next(path for path in files if path.name == MARKDOWN).read_text())
    typer.echo(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")


def export_of(name: str, text: str, runs: Sequence[Path]) -> Path | None:
    """The folder of an encoder's export, None for raw. Raises UserError for a run without final weights."""
    if text == RAW:
        return None
    folder = Path(text)
    if is_file(folder / CONFIG):
        return folder.absolute()
    directory = find_run(text, runs)
    if not (directory.export / CONFIG).exists():
        mend = "finish the training first (the same `wavetrain train` resumes it), or name the folder of an export"
        raise UserError(f"encoder {name}: it has no final weights", where=str(directory.export), mend=mend)
    return directory.export.absolute()


def _mapping(spec: Path | None, given: Mapping[str, Any], split: str | None, test: str | None) -> dict[str, Any]:
    """Of the file, under what the options say."""
    from orchestrator.downstream.spec import read_comparison

    mapping = {} if spec is None else read_comparison(spec)
    mapping |= {key: value for key, value in given.items() if value is not None}
    section = {key: value for key, value in (("by", split), ("test", _texts(test))) if value is not None}
    if section:
        kept = mapping.get("split")
        mapping["split"] = {**(kept if isinstance(kept, dict) else {}), **section}
    if "encoders" not in mapping:
        mend = "e.g. wavetrain downstream RUN raw --store STORE"
        raise UserError("no encoder is named", where="ENCODER", mend=mend)
    if "store" not in mapping:
        raise UserError("no store is named", where="--store", mend="name the store with channels and labels")
    return mapping


def _named(encoders: Sequence[str] | None) -> dict[str, str] | None:
    """By name: of ``NAME=...``, else the last part of the path."""
    if not encoders:
        return None
    found: dict[str, str] = {}
    for text in encoders:
        name, separator, rest = text.partition("=")
        if not separator:
            path = Path(text)
            name, rest = (path.parent.name if path.name == "model" else path.name) or text, text
        if name in found:
            raise UserError(f"two encoders are called {name!r}", where="ENCODER", mend="call one NAME=...")
        found[name] = rest
    return found


def _texts(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None, option: str) -> list[int] | None:
    parts = _texts(text)
    if parts is not None and not all(part.isdecimal() for part in parts):
        raise UserError(f"{text!r} are no whole numbers", where=option, mend=f"e.g. {option} 4,8")
    return None if parts is None else [int(part) for part in parts]
