"""What the study of Fig. 3 runs: a store to pre-train on, a job an encoder, and a comparison a source of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from channels.errors import UserError
from channels.presets import Preset, load_preset
from channels.yaml_files import parse_shipped
from jobs.studies.imported import store_name
from jobs.studies.spec import Child
from orchestrator.downstream.spec import DownstreamSpec
from orchestrator.spec.job import JobSpec
from orchestrator.spec.section import Positive, Section
from orchestrator.spec.yaml_files import validate

NAME = "fig3-wimamba"
PRESET = "wimamba"
MODELS = ("wimamba", "lwm", "hetercsi")
DESCRIPTION = "Fig. 3 of WiMamba: downstream tasks by share of labels, frozen encoders beside the raw channel."


class DownstreamScale(Section):
    """How large the study is; the fields are described in ``scales.yaml``."""

    sets: tuple[str, ...]
    samples: Positive
    size: Literal["tiny", "published"]
    epochs: dict[str, Positive]
    lr: dict[str, float]
    global_batch: Positive
    workers: Positive
    patches: tuple[Positive, ...]
    shares: tuple[Positive, ...]
    seeds: Positive


@dataclass(frozen=True, slots=True)
class DownstreamStudy:
    """The study at one scale. store: of the channels that are made. sources: labelled channels, by a short name."""

    name: str
    scale: DownstreamScale
    preset: Preset
    store: Path
    stores: Path
    seed: int
    children: tuple[Child, ...]
    sources: Mapping[str, Path]

    def labelled_store(self, source: str) -> Path:
        """Where the channels of a source are imported to."""
        return self.stores / f"{NAME}-{store_name(self.sources[source])}"

    def comparison(self, source: str, sets: Sequence[str], runs: Path) -> tuple[DownstreamSpec, dict[str, Path | None]]:
        """Of all encoders on the sets of a source, and where their exports are."""
        exports: dict[str, Path | None] = {
            child.method: (runs / child.job.name / "model").absolute() for child in self.children
        }
        exports["raw"] = None
        fields = {
            "name": f"{self.name}.{source}",
            "store": str(self.labelled_store(source).absolute()),
            "sets": list(sets),
            "encoders": {name: str(folder or "raw") for name, folder in exports.items()},
            "patches": self.scale.patches, "shares": self.scale.shares, "seeds": self.scale.seeds,
        }  # fmt: skip
        return validate(DownstreamSpec, fields, f"comparison on {source}"), exports


def downstream_scales() -> dict[str, DownstreamScale]:
    """The shipped scales by name."""
    text = resources.files(__package__).joinpath("scales.yaml").read_text(encoding="utf-8")
    read: dict[str, Any] = parse_shipped(text)
    return {name: DownstreamScale.model_validate(fields) for name, fields in read.items()}


def make_downstream_study(
    name: str, scale: DownstreamScale, sources: Sequence[Path], stores: Path, seed: int
) -> DownstreamStudy:
    """The study with its jobs. stores: where stores of channels lie.

    Raises:
        UserError: no source, or one that is not there; two sources of one name.
    """
    if not sources:
        mend = "name files or folders of ray-traced users or DeepMIMO scenarios with --source (repeatable)"
        raise UserError("no labelled channels to compare on", where="--source", mend=mend)
    named: dict[str, Path] = {}
    for source in sources:
        if not source.exists():
            raise UserError(
                "no such file or folder", where=f"--source {source}", mend="name what 'channels import' reads"
            )
        if source.absolute().stem in named:
            raise UserError(f"two sources are called {source.absolute().stem!r}", where="--source", mend="rename one")
        named[source.absolute().stem] = source
    full = load_preset(PRESET)
    preset = Preset(full.name, tuple(row for row in full.pretrain if row.name in scale.sets), ())
    store = stores / f"{PRESET}-{NAME}-n{scale.samples}-s{seed}"
    children = tuple(Child(model, len(scale.sets), _job(name, model, scale, store, seed)) for model in MODELS)
    return DownstreamStudy(name, scale, preset, store, stores, seed, children, named)


def _job(study: str, model: str, scale: DownstreamScale, store: Path, seed: int) -> JobSpec:
    options: dict[str, Any] = {"name": model, "size": scale.size}
    if model == "hetercsi":
        options["position"] = "grid"
    else:
        options["patches"] = list(scale.patches)
    fields = {
        "name": f"{study}.{model}",
        "description": f"{DESCRIPTION} Pre-training of {model}.",
        "seed": seed,
        "data": {"store": str(store.absolute()), "sets": list(scale.sets), "zeroshot_sets": []},
        "model": options,
        "batching": {
            "method": "optimal", "buckets": 3, "global_batch": scale.global_batch, "partitions": scale.workers,
            "micro_batch": scale.global_batch,
        },
        "train": {
            "epochs": scale.epochs[model], "lr": scale.lr[model], "warmup_epochs": scale.epochs[model] / 10,
            "betas": [0.9, 0.999],
        },
        "scale": {"workers": scale.workers},
        "checkpoint": {"every_steps": 500},
        "evaluation": {"references": False},
    }  # fmt: skip
    return validate(JobSpec, fields, f"run of {model}")
