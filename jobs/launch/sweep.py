"""A sweep: one child run for every combination of values, under one parent in MLflow."""

import itertools
import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from channels.errors import UserError
from channels.yaml_files import read_mapping
from jobs.launch.folder import LaunchFolder
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec, TrackingSection, make_job
from orchestrator.tracking.mlflow_run import Tracker, artifact_root, default_uri

LIMIT = 1000
PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True, slots=True)
class Sweep:
    """The children of a sweep, in the order of their numbers. name: that of the spec, and of the parent."""

    name: str
    axes: tuple[str, ...]
    children: tuple[JobSpec, ...]


def read_sweep(spec: Path, overrides: Sequence[str], sweeps: Sequence[str]) -> Sweep:
    """All combinations of ``a.b=1,2`` over a spec.

    Raises:
        UserError: broken form, a value that the spec refuses, two children of one name, too many children.
    """
    axes = [_axis(text) for text in sweeps]
    keys = tuple(key for key, _ in axes)
    for key in keys:
        if key == "name" or keys.count(key) > 1:
            raise UserError(f"{key!r} cannot be swept", where="--sweep", mend="name every other field once")
    count = math.prod(len(values) for _, values in axes)
    if count > LIMIT:
        raise UserError(f"{count} combinations", where="--sweep", mend=f"take at most {LIMIT}")
    mapping, where = read_mapping(spec), str(spec)
    base = make_job(mapping, overrides, where)
    children = [
        make_job(mapping, [*overrides, *chosen, f"name={_child_name(base.name, chosen)}"], where)
        for chosen in itertools.product(*([f"{key}={value}" for value in values] for key, values in axes))
    ]
    if len({child.name for child in children}) < len(children):
        raise UserError("two children would have one name", where="--sweep", mend="give every value once")
    return Sweep(base.name, keys, tuple(children))


def _axis(text: str) -> tuple[str, list[str]]:
    key, separator, values = text.partition("=")
    split = [value for value in re.split(r",(?![^\[]*\])", values) if value]
    if not separator or not key or not split:
        mend = "e.g. --sweep train.lr=4e-4,8e-4"
        raise UserError(f"sweep {text!r} is not of the form a.b=1,2", where="--sweep", mend=mend)
    return key, split


def _child_name(name: str, chosen: Sequence[str]) -> str:
    parts = [f"{key.rpartition('.')[2]}-{value}" for key, _, value in (text.partition("=") for text in chosen)]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", ".".join([name, *parts]))


def make_parent(sweep: Sweep, profile: Profile) -> str:
    """The MLflow run above the children, made once; its id."""
    tracker = open_parent(sweep.name, sweep.children[0].tracking, profile)
    tracker.tags({"wavetrain.sweep": ", ".join(sweep.axes), "wavetrain.children": str(len(sweep.children))})
    tracker.end("FINISHED")
    return tracker.run_id


def open_parent(name: str, tracking: TrackingSection, profile: Profile) -> Tracker:
    """The MLflow run above the children of a sweep, made once and found again by the sweep's name."""
    runs = profile.storage.runs
    directory = RunDirectory(runs / f"{name}.sweep")
    directory.path.mkdir(parents=True, exist_ok=True)
    artifacts = artifact_root(runs, tracking.experiment)
    state = directory.read_state()
    key = state.get("mlflow_key") or directory.update_state(mlflow_key=uuid.uuid4().hex)["mlflow_key"]
    known = state.get("mlflow_run_id")
    tracker = Tracker(tracking.uri or default_uri(runs), tracking.experiment, artifacts, name, known, key)
    directory.update_state(mlflow_run_id=tracker.run_id)
    return tracker


def mark_child(directory: RunDirectory, parent: str) -> None:
    """Let the child's MLflow run say whose child it is."""
    LaunchFolder(directory).tag({PARENT_TAG: parent})
