"""The job spec: one YAML file says what is trained on which channels and how; unknown keys are refused."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from channels.yaml_files import read_mapping
from models.options import FOLDER_OPTIONS, SCALE_OPTIONS, portable_options
from orchestrator.spec.failures import FailuresSection
from orchestrator.spec.section import FolderPath, Positive, Section, expanded
from orchestrator.spec.store_preset import StorePreset
from orchestrator.spec.yaml_files import apply_override, validate
from samplers.choices import Balance, Method, Mix, Pack, Shuffle, Strategy, Tails

Shot = Literal["zero", "full"]
LossWeighting = Literal["token", "sample"]
Select = Literal["val", "zeroshot", "last"]
Precision = Literal["fp32", "bf16", "bf16_pure"]
ReferenceName = Literal["zero", "repeat_last", "linear", "pad", "prony", "lmmse"]
DEFAULT_REFERENCES: tuple[ReferenceName, ...] = ("zero", "repeat_last", "linear", "prony")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class DataSection(Section):
    """Which channels are used, and their noise."""

    store: FolderPath
    """Folder of a channel store; relative paths start at the working directory."""
    preset: StorePreset | None = None
    """What the store is made from: to plan before it is there, and to make it. It says nothing about one that is."""
    sets: tuple[str, ...] | Positive | None = None
    """Names of the pre-training sets, the first N of them, or all."""
    zeroshot_sets: tuple[str, ...] | None = None
    """Names of the held-out sets, or all."""
    target: str | None = None
    """Full-shot: the held-out set that is trained on, alone, and scored; null: the pre-training sets are trained on."""
    samples: Positive | None = None
    """At most so many training samples of every set (the first ones), for ablations."""
    snr_db: float | None = 20.0
    """Noise added to unit-power channels, input and target alike (PAPERS: 20 dB); null for none."""
    placement: Literal["shared", "replicate", "partition"] = "shared"
    """Where ranks read shards: the store itself, copies of all on every node, or of what a node's ranks need."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Most gigabytes of copies a node may hold (placements replicate and partition)."""

    @property
    def shot(self) -> Shot:
        """Whether the sets that are scored are those that were trained on."""
        return "zero" if self.target is None else "full"

    @model_validator(mode="after")
    def _target_alone(self) -> "DataSection":
        for field in ("sets", "zeroshot_sets"):
            if self.target is not None and getattr(self, field) is not None:
                raise ValueError(f"target {self.target} is trained on and scored alone; drop {field}")
        return self

    @property
    def cache_bytes(self) -> int | None:
        """``cache_gb`` in bytes."""
        return None if self.cache_gb is None else int(self.cache_gb * 1e9)


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


class BatchingSection(Section):
    """How samples become batches (samplers)."""

    strategy: Strategy = "bucket"
    pack: Pack = "bucket"
    """Strategy packed: whether a slice holds samples of one bucket or of all sets."""
    method: Method = "optimal"
    buckets: Positive = 4
    min_sources: Positive = 1
    min_entropy: Annotated[float, Field(ge=0)] | None = None
    cost: Literal["tokens", "flops"] = "tokens"
    """What optimal boundaries minimise: padded tokens, or the model's arithmetic on them."""
    global_batch: Positive = 128
    """Samples of one optimizer step over all ranks."""
    batch_tokens: Positive | None = None
    """Token budget of a slice, met on average where nothing is padded; replaces the fixed number of samples."""
    batch_flops: Annotated[float, Field(gt=0)] | None = None
    """Budget of a slice in operations of a forward pass; replaces the fixed number of samples."""
    partitions: Positive = 8
    """Canonical slices of the shards; every world size that divides it gives the same batches."""
    micro_batch: Positive | tuple[Positive, ...] = 64
    """Most samples of one forward pass on one rank; or one number a bucket, as `wavetrain plan --probe` finds them."""
    mix: Mix = "none"
    """``step``: the slices of one optimizer step may come from different buckets."""
    slices: Positive = 1
    """Slices of one optimizer step."""
    tails: Tails = "fill"
    shuffle: Shuffle = "shard"
    """``sample``: every sample goes to a partition on its own; neighbours on disk share batches as often as others."""
    balance: Balance = "cost"
    """Of packed slices: ``cost`` deals their samples to the partitions so that all compute as much; ``count`` leaves
    them where they were drawn. The global batches are the same."""

    @property
    def packed(self) -> bool:
        """Samples of a slice follow each other without padding."""
        return self.strategy == "packed"

    @model_validator(mode="after")
    def _divisible(self) -> "BatchingSection":
        if self.global_batch % (self.partitions * self.slices):
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of partitions {self.partitions} x slices "
                f"{self.slices}; change one of them"
            )
        if self.batch_tokens is not None and self.batch_flops is not None:
            raise ValueError("batch_tokens and batch_flops are both given; drop one of them")
        if self.pack != "bucket" and not self.packed:
            raise ValueError(f"pack {self.pack} is for strategy packed, not for {self.strategy}; change one of them")
        return self


class ProfileSection(Section):
    """Steps of the run of which rank 0 keeps a trace; written ``{from: 100, steps: 5}``."""

    model_config = ConfigDict(populate_by_name=True)
    first: Annotated[int, Field(ge=0, alias="from")]
    """Number of the first one, counted from 0."""
    steps: Positive = 5


class TrainSection(Section):
    """Optimisation: AdamW, warm-up and half cosine (HeterCSI section IV)."""

    epochs: Positive = 1
    lr: Annotated[float, Field(gt=0)] = 8e-4
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    freeze: tuple[str, ...] = ()
    """Parts of the model whose weights stay as they are: beginnings of their parameters' names, e.g. encoder."""
    layer_lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from one layer to the one before it (BEiT, MAE); 1: the same in all layers."""
    loss_weighting: LossWeighting = "token"
    """What counts the same within a step: every masked token (published), or every sample whatever its length."""
    precision: Precision = "fp32"
    """``bf16``: mixed precision, weights and gradients in fp32; ``bf16_pure``: both in bf16 beside fp32 masters."""
    tf32: bool = False
    """On CUDA, fp32 products in TF32: 10 bits of mantissa, several times faster."""
    activation_checkpointing: bool = False
    """Recompute the activations of every block in the backward pass instead of keeping them."""
    compile: bool = False
    """torch.compile of every block, one graph a shape; not with ZeRO stage 3, which takes weights apart."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    loader_threads: Positive | None = None
    """That prepare the next steps; null: one for each core of a rank but that of the training."""
    prefetch: Positive = 4
    """Steps that are prepared ahead of the one being trained."""
    profile: ProfileSection | None = None
    """Steps to profile: a trace and a summary in the run's folder and among its artifacts."""

    @model_validator(mode="after")
    def _whole_weights(self) -> "TrainSection":
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not work with zero_stage 3; drop one of them")
        return self


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


class EvaluationSection(Section):
    """The zero-shot table, and scores beside the training."""

    split: Literal["train", "val", "test"] = "test"
    samples: Positive | None = None
    """At most so many samples of every set; null: all."""
    batch: Positive = 64
    seed: int = 0
    every_epochs: Positive | None = None
    """Also score the model after every so many epochs, beside the training."""
    validation_samples: Positive = 32
    """Beside the training: at most so many validation samples of every pre-training set."""
    select: Select = "val"
    """What chooses the best model: its validation samples, the zero-shot sets, or nothing (the last one is taken)."""
    references: bool | tuple[ReferenceName, ...] = True
    """Predictions without training that are also scored: true for ``DEFAULT_REFERENCES``, or some by name."""
    link_snr_db: float | None = 10.0
    """Of one antenna, for the spectral efficiency of precoding along predictions; null: directions are not scored."""

    @property
    def reference_names(self) -> tuple[ReferenceName, ...]:
        """Those of ``references``, each once."""
        if isinstance(self.references, bool):
            return DEFAULT_REFERENCES if self.references else ()
        return tuple(dict.fromkeys(self.references))


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

    @field_validator("data")
    @classmethod
    def _plain_store(cls, data: DataSection) -> DataSection:
        if not str(data.store).strip():
            raise ValueError("store is empty")
        return data

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
            ("train", "layer_lr_decay", 1.0),
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
