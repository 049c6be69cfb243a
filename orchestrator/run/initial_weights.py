"""The weights that a run begins with, where its job names some (``model.init``), and which of them it trains.

They are copied into the run's folder before it trains, so that every attempt begins with the same ones, whatever
becomes of the source; states on disk hold what is trained only.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import sync_folder, write_atomically
from models.export import CONFIG, WEIGHTS, is_export, load_weights, read_spec
from models.interface import ModelSpec, PretrainingModel
from models.layers.matrices import block_matrices
from models.layers.parameters import freeze, layer_scales
from models.options import FOLDER_OPTIONS, portable_options
from models.registry import make_spec
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """source: as the job names it. folder: the exported model. sha256: of its weights. other_options: what it was
    exported with, where the job's model says otherwise."""

    source: str
    folder: Path
    sha256: str
    other_options: Mapping[str, Any]

    @property
    def record(self) -> dict[str, str]:
        """For the run's state and MLflow."""
        return {"source": self.source, "sha256": self.sha256}

    @property
    def line(self) -> str:
        """For people."""
        others = ", ".join(f"{name} {value!r}" for name, value in sorted(self.other_options.items()))
        differing = f", which were exported with other options: {others}" if others else ""
        return f"begins with the weights of {self.source} (sha256 {self.sha256[:16]}){differing}"


def check_beginning(job: JobSpec, spec: ModelSpec, runs: Path) -> InitialWeights | None:
    """What a run of the job begins with; None for weights drawn from the seed. runs: folder of all runs.

    A run that has its copy already needs the source no more.

    Raises:
        UserError: no such run or export, one of another model or shape, parts and layers that the model has not, none
            that the optimizer is for, or an option that names other weights to begin with.
    """
    train, init = job.train, job.model.init
    if init is None and not train.freeze and train.layer_lr_decay == 1 and train.optimizer == "adamw":
        return None
    _check_one_source(job)
    model = spec.build(job.seed)
    freeze(model, train.freeze)
    if train.layer_lr_decay != 1:
        layer_scales(model, train.layer_lr_decay)
    if train.optimizer == "muon":
        block_matrices(model)
    if init is None:
        return None
    kept = RunDirectory(runs / job.name).initial
    folder = kept if kept.exists() else find_export(init, runs)
    load_weights(folder, job.model.name, model)
    begun = begun_spec(job, folder)
    own, theirs = (portable_options(job.model.name, _options(one)) for one in (begun, read_spec(folder)))
    others = {name: value for name, value in theirs.items() if own[name] != value}
    return InitialWeights(init, folder, hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(), others)


def _check_one_source(job: JobSpec) -> None:
    for option in FOLDER_OPTIONS.get(job.model.name, ()) if job.model.init is not None else ():
        if job.model.options.get(option) is not None:
            what = f"init and {option} both name weights to begin with, and those of init would replace the others"
            raise UserError(what, where="model", mend=f"leave out one of init and {option}")


def begun_options(job: JobSpec, folder: Path) -> dict[str, Any]:
    """The model's options of a run, where folders that hold weights are those that went into its first ones.

    folder: of the export that it begins with, where the job names one.

    Raises:
        UserError: the export is damaged.
    """
    options = job.model.options
    folders = FOLDER_OPTIONS.get(job.model.name, ())
    if job.model.init is None or not folders:
        return options
    theirs = _options(read_spec(folder))
    return options | {option: theirs[option] for option in folders}


def begun_spec(job: JobSpec, folder: Path) -> ModelSpec:
    """The specification with :func:`begun_options`: what it says of its weights is true of those that are trained."""
    return make_spec(job.model.name, begun_options(job, folder))


def _options(spec: ModelSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(spec)}  # type: ignore[arg-type]


def find_export(init: str, runs: Path) -> Path:
    """Folder of the exported model that ``model.init`` names: a run's final one, or a folder's, or a run's folder's.

    Raises:
        UserError: there is none.
    """
    named = Path(init) if "/" in init else runs / init
    for folder in (named, RunDirectory(named).export):
        if is_export(folder):
            return folder
    where = f"model.init {init}"
    if RunDirectory(named).spec.exists():
        mend = f"let it finish, or name the best one so far: {RunDirectory(named).best}"
        raise UserError(f"the run in {named} has exported no model yet", where=where, mend=mend)
    mend = "name a run of the same folder, or the folder of an exported model (with a slash: ./model)"
    raise UserError(f"there is no run or exported model at {named}", where=where, mend=mend)


def keep_copy(initial: InitialWeights, directory: RunDirectory) -> None:
    """Copy the export into the run's folder, whole or not at all, and write down where it is from."""
    if not directory.initial.exists():
        unfinished = directory.initial.with_name(f".{directory.initial.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name in (WEIGHTS, CONFIG):
            write_atomically(unfinished / name, (initial.folder / name).read_bytes())
        unfinished.replace(directory.initial)
        sync_folder(directory.path)
    directory.update_state(init=initial.record)


def load_initial(directory: RunDirectory, job: JobSpec, model: PretrainingModel) -> None:
    """Give a network that was just built the weights that the run begins with, if the job names any.

    Raises:
        UserError: the copy in the run's folder is damaged.
    """
    if job.model.init is not None:
        load_weights(directory.initial, job.model.name, model)
