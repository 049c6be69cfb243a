"""What a study runs: its store of channels and the job of every child, from the shipped definitions and a scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from channels.catalogue import Counts, make_store
from channels.presets import Preset, load_preset
from channels.progress import Progress
from channels.spec import ChannelSpec
from channels.yaml_files import parse_shipped
from orchestrator.spec.job import JobSpec, LossWeighting
from orchestrator.spec.section import Positive, Section
from orchestrator.spec.yaml_files import validate

PRESET = "hetercsi"
StudyName = Literal["table3", "fig4", "fig1c"]


class Scale(Section):
    """How large a study is; the fields are described in ``studies/scales.yaml``."""

    divide_subcarriers: Positive
    samples: Positive
    zeroshot_sets: tuple[str, ...]
    zeroshot_samples: Positive
    table3_sets: tuple[Positive, ...]
    model: Literal["tiny", "base", "published"]
    epochs: Positive
    global_batch: Positive
    workers: Positive
    lr: float
    position: Literal["flat", "grid"]
    gradient_epochs: Positive
    gradient_batches: Positive


@dataclass(frozen=True, slots=True)
class Child:
    """One run of a study. method: its row in the table. sets: how many pre-training sets it has."""

    method: str
    sets: int
    job: JobSpec


@dataclass(frozen=True, slots=True)
class Study:
    """A study at one scale. name: of the MLflow parent, and beginning of the children's names."""

    kind: StudyName
    name: str
    description: str
    scale: Scale
    preset: Preset
    store: Path
    seed: int
    children: tuple[Child, ...]
    pairs: Mapping[str, tuple[str, str]]
    """Fig. 1c: the sets that are compared, by the relation of their scales; empty for other studies."""


def known_scales() -> dict[str, Scale]:
    """The shipped scales by name."""
    return {name: Scale.model_validate(fields) for name, fields in _read("scales").items()}


def make_study(kind: StudyName, name: str, scale: Scale, folder: Path, seed: int) -> Study:
    """The study with its children; ``folder``: where stores of channels lie.

    Raises:
        UserError: a batch that the workers cannot share.
    """
    definition = _read("studies")[kind]
    numbers = scale.table3_sets if kind == "table3" else (len(definition["sets"]),)
    preset = _scaled(load_preset(definition.get("preset", PRESET)), scale, definition.get("sets", max(numbers)))
    store = folder / f"{preset.name}-{kind}-k{scale.divide_subcarriers}-n{scale.samples}-s{seed}"
    children = tuple(
        Child(method, sets, _job(name, definition, method, weighting, sets, scale, store, seed))
        for sets in numbers
        for weighting in definition.get("loss_weightings", ("token",))
        for method in definition.get("methods", {})
    )
    pairs = {relation: (first, second) for relation, (first, second) in definition.get("pairs", {}).items()}
    return Study(kind, name, definition["description"], scale, preset, store, seed, children, pairs)


def make_study_store(study: Study, progress: Progress) -> None:
    """Make the channels that are not there yet."""
    study.store.parent.mkdir(parents=True, exist_ok=True)
    counts = Counts(train=study.scale.samples, val=0, test=study.scale.zeroshot_samples)
    make_store(study.store, study.preset, counts, study.seed, progress)


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = parse_shipped(resources.files("jobs.studies").joinpath(f"{name}.yaml").read_text())
    return content


def _scaled(preset: Preset, scale: Scale, sets: int | list[str]) -> Preset:
    chosen = preset.pretrain[:sets] if isinstance(sets, int) else [row for row in preset.pretrain if row.name in sets]
    held_out = [row for row in preset.zeroshot if row.name in scale.zeroshot_sets]
    return Preset(
        preset.name,
        tuple(_shortened(row, scale.divide_subcarriers) for row in chosen),
        tuple(_shortened(row, scale.divide_subcarriers) for row in held_out),
    )


def _shortened(row: ChannelSpec, factor: int) -> ChannelSpec:
    return replace(
        row, subcarriers=row.subcarriers // factor, subcarrier_spacing_khz=row.subcarrier_spacing_khz * factor
    )


def _job(
    study: str,
    definition: Mapping[str, Any],
    method: str,
    weighting: LossWeighting,
    sets: int,
    scale: Scale,
    store: Path,
    seed: int,
) -> JobSpec:
    name = f"{study}.sets-{sets}.{method}" + ("" if weighting == "token" else f".by-{weighting}")
    shares = {"global_batch": scale.global_batch, "partitions": scale.workers, "micro_batch": scale.global_batch}
    fields = {
        "name": name,
        "description": definition["description"],
        "seed": seed,
        "data": {"store": str(store.absolute()), "sets": sets},
        "model": {"name": "hetercsi", "size": scale.model, "position": scale.position},
        "batching": {**shares, **definition["methods"][method]},
        "train": {
            "epochs": scale.epochs,
            "lr": scale.lr,
            "warmup_epochs": scale.epochs / 15,
            "loss_weighting": weighting,
        },
        "scale": {"workers": scale.workers},
        "checkpoint": {"every_steps": 500},
        "evaluation": {"references": False},
    }
    return validate(JobSpec, fields, f"run {name}")
