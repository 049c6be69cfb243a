"""The job spec: one YAML file says what is trained on which channels and how; unknown keys are refused."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from channels.yaml_files import read_mapping
from models.options import FOLDER_OPTIONS, SCALE_OPTIONS, portable_options
from orchestrator.spec.batching import BatchingSection
from orchestrator.spec.data import DataSection
from orchestrator.spec.evaluation import EvaluationSection
from orchestrator.spec.failures import FailuresSection
from orchestrator.spec.section import Positive, Section, expanded
from orchestrator.spec.train import TrainSection
from orchestrator.spec.yaml_files import apply_override, validate

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class ModelSection(BaseModel):
    """A model of the registry; every further key is an option of that model."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "hetercsi"
    init: str | None = None
    """Weights to begin with: a run, whose final ones are taken, or an exported model's folder (with a slash)."""

    @property
    def options(self) -> dict[str, Any]:
        """Options for ``models.registry.make_spec``."""
        return dict(self.model_extra or {})


class ScaleSection(Section):
    """How many ranks."""

    workers: Positive | tuple[Positive, Positive] = 1
    """A number, or [least, most]: the run shrinks and grows with the nodes that are there."""

    @model_validator(mode="after")
    def _ordered(self) -> "ScaleSection":
        if self.least > self.most:
            raise ValueError(f"workers [{self.least}, {self.most}] is empty; write [least, most]")
        return self

    @property
    def least(self) -> int:
        """Fewest ranks the run goes on with."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Ranks the run has if nothing is missing."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def text(self) -> str:
        """For people: ``4``, or ``1-4``."""
        return str(self.most) if isinstance(self.workers, int) else f"{self.least}-{self.most}"


class CheckpointSection(Section):
    """When training state is saved."""

    every_steps: Positive | None = 100
    every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Also when so much time has passed since the last one."""
    keep: Positive = 2
    """Newest states that are kept."""
    memory: bool = True
    """Also keep the newest state in the machine's shared memory, where it has room, for ranks that are killed."""
    keep_best: bool = False
    """Also save after every epoch that is evaluated, and keep the state of the best zero-shot NMSE."""


class TrackingSection(Section):
    """Where MLflow keeps the run."""

    uri: str | None = None
    """null: a sqlite file in the folder of the runs."""
    offline: bool = False
    """Ask no MLflow at all: everything is kept in the run's folder until ``wavetrain sync`` brings it there."""
    experiment: str = "wavetrain"
    every_steps: Positive = 1
    """Steps between two lines of metrics."""
    log_samples: bool = False
    """Write down which samples every rank trained on at every step (folder ``samples`` of the run)."""
    system_every_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds between two samples of every machine's CPU, memory, network and GPUs, at first; 0: none."""
    print_every_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between two lines about the steps where the output is no terminal."""
    register_model: bool = True
    """Put the final model into MLflow's registry, as a version of ``<experiment>-<model>``."""


class JobSpec(Section):
    """Everything that decides a run's numbers; where it runs is the cluster's profile."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    data: DataSection
    model: ModelSection = ModelSection()
    batching: BatchingSection = BatchingSection()
    train: TrainSection = TrainSection()
    scale: ScaleSection = ScaleSection()
    checkpoint: CheckpointSection = CheckpointSection()
    failures: FailuresSection = FailuresSection()
    evaluation: EvaluationSection = EvaluationSection()
    tracking: TrackingSection = TrackingSection()

    @model_validator(mode="after")
    def _best_is_known(self) -> "JobSpec":
        if self.checkpoint.keep_best and self.evaluation.every_epochs is None:
            raise ValueError("checkpoint.keep_best needs scores; set evaluation.every_epochs")
        if self.checkpoint.keep_best and self.evaluation.select == "last":
            raise ValueError("checkpoint.keep_best needs a choice; set evaluation.select to val or zeroshot")
        return self

    @model_validator(mode="after")
    def _target_does_not_choose(self) -> "JobSpec":
        if self.data.target is not None and self.evaluation.select == "zeroshot":
            raise ValueError(
                "evaluation.select zeroshot would choose by the target's test samples; set it to val or last"
            )
        return self

    @model_validator(mode="after")
    def _shards_stay_whole(self) -> "JobSpec":
        if self.batching.shuffle == "sample" and self.data.placement == "partition":
            raise ValueError(
                "batching.shuffle sample spreads every shard over all nodes; use data.placement shared or replicate"
            )
        return self

    @property
    def training_identity(self) -> dict[str, Any]:
        """The fields that decide which numbers training computes: what a resumed run must share.

        The store counts by its content, which the run's state holds, not by its path. World size, ZeRO stage,
        micro-batch, balance and the backend of a scan may change: global batches do not depend on them, sums only in
        their rounding.
        """
        resolved = self.model_dump(mode="json")
        kept = ("name", "seed", "data", "model", "batching", "train")
        identity = {key: resolved[key] for key in kept}
        for harmless in ("loader_threads", "prefetch", "profile", "zero_stage"):
            identity["train"].pop(harmless)
        for harmless in ("micro_batch", "balance"):
            identity["batching"].pop(harmless)
        identity["model"] = portable_options(self.model.name, identity["model"])
        if self.data.target is not None:
            # They follow from the target, whether they are written out or not.
            for option in SCALE_OPTIONS:
                identity["model"].pop(option, None)
        for harmless in ("store", "preset", "zeroshot_sets", "placement", "cache_gb"):
            identity["data"].pop(harmless)
        # A run that was started before a field was there resumes as long as the field keeps its default.
        kept_defaults: tuple[tuple[str, str, Any], ...] = (
            ("batching", "shuffle", "shard"), ("train", "loss_weighting", "token"), ("train", "tf32", False),
            ("data", "target", None), ("model", "init", None), ("train", "freeze", []),
            ("train", "layer_lr_decay", 1.0), ("train", "optimizer", "adamw"), ("train", "muon_lr", 0.02),
            ("data", "augment", []), ("data", "crop", []),
        )  # fmt: skip
        for section, field, default in kept_defaults:
            if identity[section][field] == default:
                identity[section].pop(field)
        return identity

    @property
    def fingerprint(self) -> str:
        """sha256 of the training identity."""
        identity = self.training_identity
        # Checkpoints of runs that were started when bf16 was the name of bf16_pure have its hash.
        precision = identity["train"]["precision"]
        identity["train"]["precision"] = {"bf16": "bf16_mixed", "bf16_pure": "bf16"}.get(precision, precision)
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a job spec and apply ``a.b=c`` overrides.

    Raises:
        UserError: missing or broken file, unknown key (the nearest known one is named), wrong type or value.
    """
    return make_job(read_mapping(path), overrides, str(path))


def make_job(mapping: Mapping[str, Any], overrides: Sequence[str], where: str) -> JobSpec:
    """The spec of a mapping with ``a.b=c`` overrides; the mapping stays as it is. where: of errors.

    Raises:
        UserError: unknown key (the nearest known one is named), wrong type or value.
    """
    fields = copy.deepcopy(dict(mapping))
    for override in overrides:
        apply_override(fields, override)
    job = validate(JobSpec, fields, where, overrides)
    # Controller and workers may run in folders of their own, so a relative path would mean something else there.
    data = job.data.model_copy(update={"store": job.data.store.absolute()})
    tracking = job.tracking.model_copy(update={"uri": _absolute(job.tracking.uri)})
    return job.model_copy(update={"data": data, "model": _with_absolute_folders(job.model), "tracking": tracking})


def _with_absolute_folders(model: ModelSection) -> ModelSection:
    folders = FOLDER_OPTIONS.get(model.name, ())
    given = {name: value for name, value in model.options.items() if name in folders and isinstance(value, str)}
    if model.init is not None and "/" in model.init:
        given["init"] = model.init
    return model.model_copy(update={name: str(expanded(Path(value)).absolute()) for name, value in given.items()})


def _absolute(uri: str | None) -> str | None:
    """The same with the whole path of a database file."""
    scheme, separator, path = (uri or "").partition("sqlite:///")
    if scheme or not separator or not path or path.startswith(("/", ":")):
        return uri
    return f"sqlite:///{expanded(Path(path)).absolute()}"
