"""``wavetrain evaluate``: the zero-shot table of trained models, computed again."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from channels.errors import UserError
from channels.files import is_file
from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.launch.run_list import find_run
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import load_profile, run_folders
from orchestrator.spec.data import DataSection
from orchestrator.spec.job import JobSpec
from orchestrator.view.console import plain_console

if TYPE_CHECKING:
    from channels.store import ChannelStore
    from orchestrator.evaluation.score import Score

CONFIG = "config.json"
"""What a folder holds that is an export (models.export)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Final weights. name: in tables. job: of the run whose conditions of scoring count; None for an export without
    one. target: the set that they were trained on alone, None for zero-shot models."""

    name: str
    export: Path
    job: JobSpec | None
    target: str | None = None


def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Name or folder of a run, or folder of an export.")
    ],
    store: Annotated[
        Path | None, typer.Option(help="Store of the sets; an export needs it (default: the run's).")
    ] = None,
    sets: Annotated[str | None, typer.Option(help="Zero-shot sets, e.g. D1,D3 (default: the run's, or all).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Score final weights on the held-out sets; nothing of a run is changed. Several models: one table."""
    device = load_profile(cluster_file, cluster).device
    folders = run_folders(cluster_file, cluster)
    trained = [_find(model, folders) for model in models]
    _check_names(trained)
    job = _conditions(trained, store, sets)
    scores = _score(trained, job, device)
    if as_json:
        _print_json(trained, scores)
    else:
        _print_tables(trained, scores)


def _find(model: str, folders: Sequence[Path]) -> Trained:
    folder = Path(model)
    if is_file(folder / CONFIG):
        of_run = RunDirectory(folder.resolve().parent)
        target = of_run.read_spec().data.target if of_run.spec.exists() else None
        return Trained(folder.resolve().name, folder, None, target)
    directory = find_run(model, folders)
    if not (directory.export / CONFIG).exists():
        mend = "finish the training first (the same `wavetrain train` resumes it)"
        raise UserError(f"run {model!r} has no final weights", where=str(directory.export), mend=mend)
    job = directory.read_spec()
    return Trained(directory.path.name, directory.export, job, job.data.target)


def _check_names(trained: Sequence[Trained]) -> None:
    names = [model.name for model in trained]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two models are called {twice!r}", where="MODEL", mend="name each once, or rename a folder")


def _conditions(trained: Sequence[Trained], store: Path | None, sets: str | None) -> JobSpec:
    """What all models are scored on, and how: as the first run among them was, where nothing else is given.

    A full-shot run says how but not on which sets, where there are others.
    """
    known = sorted((model for model in trained if model.job is not None), key=lambda model: model.target is not None)
    job = known[0].job if known else None
    if store is None and job is None:
        raise UserError("an export has no store of its own", where=str(trained[0].export), mend="add --store STORE")
    if store is not None:
        data = DataSection(store=store) if job is None else job.data.model_copy(update={"store": store})
        job = JobSpec(name="export", data=data) if job is None else job.model_copy(update={"data": data})
    assert job is not None
    targets = [model.target for model in trained if model.target is not None]
    if store is not None or sets is not None or job.data.target is not None:
        chosen = None if sets is None else tuple(name.strip() for name in sets.split(","))
        if sets is None and len(targets) == len(trained):
            chosen = tuple(dict.fromkeys(targets))
        job = job.model_copy(update={"data": job.data.model_copy(update={"zeroshot_sets": chosen, "target": None})})
    return job


def _score(trained: Sequence[Trained], job: JobSpec, device: str) -> "dict[str, list[Score]]":
    import torch

    from channels.store import ChannelStore
    from models.export import read_spec
    from orchestrator.evaluation.nmse import check_zeroshot_sets, evaluate_set

    opened = ChannelStore.open(job.data.store)
    sets: dict[str, tuple[str, ...]] = {}
    for model in trained:
        asked = _own_sets(model, job, opened)
        sets[model.name] = check_zeroshot_sets(opened, asked, read_spec(model.export))
        if not sets[model.name]:
            mend = "add --sets, or --store STORE"
            raise UserError("data.zeroshot_sets of the run is empty", where=job.name, mend=mend)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return {
        model.name: [
            score for name in sets[model.name] for score in evaluate_set(model.export, opened.path, name, job, device)
        ]
        for model in trained
    }


def _own_sets(model: Trained, job: JobSpec, store: "ChannelStore") -> JobSpec:
    """The conditions for one model: a full-shot one is scored on its target alone, which the others know nothing of."""
    from orchestrator.data.reader import chosen_zeroshot_sets

    if model.target is None:
        return job
    if model.target not in chosen_zeroshot_sets(store, job.data):
        what = f"{model.name} was trained on {model.target} alone, which is not among the sets"
        raise UserError(what, where="--sets", mend=f"add {model.target}, or leave the model out")
    return job.model_copy(update={"data": job.data.model_copy(update={"zeroshot_sets": (model.target,)})})


def _print_json(trained: Sequence[Trained], scores: "dict[str, list[Score]]") -> None:
    from orchestrator.evaluation.table import to_document

    documents = {model.name: to_document(scores[model.name]) | _marks(model) for model in trained}
    [first, *others] = documents.values()
    typer.echo(json.dumps({"models": documents} if others else first, indent=2))


def _marks(model: Trained) -> dict[str, Any]:
    """What a model's scores must be read with, where there is anything."""
    from models.export import read_spec
    from models.interface import caveats

    lines = list(caveats(read_spec(model.export)))
    target = {} if model.target is None else {"shot": "full", "target": model.target}
    return target | ({"caveats": lines} if lines else {})


def _print_tables(trained: Sequence[Trained], scores: "dict[str, list[Score]]") -> None:
    from orchestrator.evaluation.comparison import comparison_table
    from orchestrator.evaluation.direction_table import direction_comparison
    from orchestrator.evaluation.shot import TITLES
    from orchestrator.evaluation.table import to_tables

    console = plain_console(200)
    if len(scores) == 1:
        [(name, found)] = scores.items()
        kind = TITLES["zero" if trained[0].target is None else "full"]
        console.print(*to_tables(found, f"{kind} results of {name}"), sep="\n")
    else:
        fullshot = [model.name for model in trained if model.target is not None]
        console.print(comparison_table(scores, fullshot))
        directions = direction_comparison(scores, fullshot)
        if directions is not None:
            console.print(directions)
    for model in trained:
        for caveat in _marks(model).get("caveats", ()):
            console.print(f"{model.name}: {caveat}", highlight=False, soft_wrap=True)
