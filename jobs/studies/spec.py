"""What a study runs: its store of channels and the job of every child, from the shipped definitions and a scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from channels.catalogue import Counts, make_store
from channels.errors import UserError
from channels.presets import Preset, load_preset
from channels.progress import Progress
from channels.spec import ChannelSpec
from channels.yaml_files import parse_shipped
from jobs.studies.extrapolation import ExtrapolationScale, choose_training_sets, extrapolation_jobs
from jobs.studies.imported import Imported
from jobs.studies.recipe import RecipeScale, RunSeeds, read_recipe, recipe_jobs
from jobs.studies.rivals import RivalScale, Stores, full_shot_jobs, missing, pretrained_jobs
from orchestrator.spec.job import JobSpec
from orchestrator.spec.section import Positive, Section
from orchestrator.spec.train import LossWeighting, Optimizer
from orchestrator.spec.yaml_files import validate

PRESET = "hetercsi"
StudyName = Literal["table2", "table3", "fig3", "fig4", "fig1c", "scales", "recipe"]


class Scale(Section):
    """How large a study is; the fields are described in ``studies/scales.yaml``."""

    divide_subcarriers: Positive
    samples: Positive
    zeroshot_sets: tuple[str, ...]
    zeroshot_samples: Positive
    table3_sets: tuple[Positive, ...]
    fig3_sets: tuple[Positive, ...]
    fig4_seeds: RunSeeds | None = None
    """None: that of the channels."""
    model: Literal["tiny", "base", "published"]
    epochs: Positive
    global_batch: Positive
    workers: Positive
    optimizer: Optimizer
    lr: float
    muon_lr: float | None = None
    position: Literal["flat", "grid", "rotary"]
    gradient_epochs: Positive
    gradient_lr: float
    gradient_batches: Positive
    rivals: RivalScale
    extrapolation: ExtrapolationScale
    recipe: RecipeScale


@dataclass(frozen=True, slots=True)
class Child:
    """One run of a study. method: its row in the table (``scales``: with or without the longest sets, ``recipe``: its
    change). sets: how many pre-training sets it has."""

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
    imported: Imported | None = None
    """Channels that take the place of made ones (``recipe``: of the held-out ones)."""
    target_store: Path | None = None
    """Table II beside imported channels: made channels of the targets, which full-shot models are trained on."""
    left_out: Sequence[str] = field(default=())
    """What the scale or this machine leaves out, in sentences."""


def known_scales() -> dict[str, Scale]:
    """The shipped scales by name."""
    return {name: Scale.model_validate(fields) for name, fields in _read("scales").items()}


def make_study(
    kind: StudyName,
    name: str,
    scale: Scale,
    folder: Path,
    seed: int,
    *,
    imported: Imported | None = None,
    gpt2: Path | None = None,
) -> Study:
    """The study with its children. folder: where stores of channels lie. imported: channels in place of made ones
    (Table II, Fig. 3, scales and recipe). gpt2: folder with the weights that LLM4CP begins with.

    Raises:
        UserError: a batch that the workers cannot share, an unknown target or change, none among the imported sets, or
            no sets that are longer than others.
    """
    definition = _read("studies")[kind]
    if kind == "recipe":
        return _with_changes(name, definition, scale, folder, seed, imported)
    if kind == "scales":
        own = scale.extrapolation
        scale = scale.model_copy(update={"zeroshot_sets": own.targets, "epochs": own.epochs})
    scale, left_out = (scale, []) if imported is None else _fitted(kind, scale, imported)
    numbers = _numbers(kind, scale, definition)
    preset = imported.sets if imported else _preset(kind, definition, scale, max(numbers))
    targets = f"-t{scale.rivals.samples}" if kind == "table2" else ""
    made = folder / f"{preset.name}-{kind}-k{scale.divide_subcarriers}-n{scale.samples}{targets}-s{seed}"
    store = imported.store if imported else made
    pairs = {relation: (first, second) for relation, (first, second) in definition.get("pairs", {}).items()}
    study = Study(kind, name, definition["description"], scale, preset, store, seed, (), pairs, imported)
    if kind == "scales":
        return _with_lengths(replace(study, left_out=left_out), definition)
    if kind != "table2":
        return replace(study, children=_ablations(study, definition, numbers), left_out=left_out)
    lacks = imported is not None and not set(scale.rivals.targets) <= imported.trained
    stores = Stores(store, folder / f"targets-n{scale.rivals.samples}-s{seed}" if lacks else store)
    reason = missing("llm4cp")
    return replace(
        study,
        children=_methods(study, definition, stores, gpt2),
        target_store=stores.targets if lacks else None,
        left_out=[*left_out, *_left_out_targets(scale), *([reason] if reason else [])],
    )


def _with_changes(
    name: str, definition: Mapping[str, Any], scale: Scale, folder: Path, seed: int, imported: Imported | None
) -> Study:
    """The study of the recipe. Its runs are the same whatever channels they are scored on."""
    recipe, own = read_recipe(definition), scale.recipe
    most = recipe.most_samples(own.samples)
    scale = scale.model_copy(update={"divide_subcarriers": 1, "samples": most, "zeroshot_sets": own.targets})
    every = load_preset(recipe.preset)
    preset = _preset("recipe", {"preset": recipe.preset}, scale, len(every.pretrain))
    store = folder / f"{preset.name}-recipe-n{most}-t{scale.zeroshot_samples}-s{seed}"
    sets = [row.name for row in preset.pretrain]
    jobs = recipe_jobs(name, definition["description"], recipe, own, store, sets)
    children = tuple(Child(change, _count(job, len(sets)), job) for change, job in jobs)
    scale, left_out = (scale, []) if imported is None else _fitted("recipe", scale, imported)
    description = definition["description"]
    return Study("recipe", name, description, scale, preset, store, seed, children, {}, imported, left_out=left_out)


def _count(job: JobSpec, every: int) -> int:
    """Of the pre-training sets that a run has."""
    chosen = job.data.sets
    return len(chosen) if isinstance(chosen, tuple) else chosen or every


def _numbers(kind: StudyName, scale: Scale, definition: Mapping[str, Any]) -> tuple[int, ...]:
    """Of pre-training sets: all that are compared."""
    every = (len(load_preset(PRESET).pretrain),)
    of_scale = {"table3": scale.table3_sets, "fig3": scale.fig3_sets, "table2": (scale.rivals.sets,), "scales": every}
    return of_scale.get(kind) or (len(definition["sets"]),)


def _preset(kind: StudyName, definition: Mapping[str, Any], scale: Scale, sets: int) -> Preset:
    held_out = scale.rivals.targets if kind == "table2" else scale.zeroshot_sets
    preset = load_preset(definition.get("preset", PRESET))
    known = [row.name for row in preset.zeroshot]
    unknown = [name for name in held_out if name not in known]
    if unknown and known:
        raise UserError(f"no held-out set {unknown[0]!r}", where="--targets", mend=f"there are {', '.join(known)}")
    return _scaled(preset, scale, definition.get("sets", sets), held_out)


def _fitted(kind: StudyName, scale: Scale, imported: Imported) -> tuple[Scale, list[str]]:
    """The scale with the sets that there are, as they are, and what is left out of it."""
    sets, held = len(imported.sets.pretrain), [row.name for row in imported.sets.zeroshot]
    wanted = scale.rivals.targets if kind == "table2" else scale.zeroshot_sets
    targets = tuple(name for name in wanted if name in held)
    if not targets:
        mend = f"it has {', '.join(held)}"
        raise UserError(f"none of the held-out sets {', '.join(wanted)}", where=str(imported.source), mend=mend)
    numbers = tuple(dict.fromkeys(min(number, sets) for number in scale.fig3_sets))
    rivals = scale.rivals.model_copy(update={"targets": targets, "sets": sets})
    changes = {"divide_subcarriers": 1, "fig3_sets": numbers, "zeroshot_sets": targets, "rivals": rivals}
    lost = [name for name in wanted if name not in held]
    return scale.model_copy(update=changes), [f"Not among the imported sets: {', '.join(lost)}."] if lost else []


def _left_out_targets(scale: Scale) -> list[str]:
    every = [row.name for row in load_preset(PRESET).zeroshot]
    lost = [name for name in every if name not in scale.rivals.targets]
    return [f"Left out at this scale: the targets {', '.join(lost)}."] if lost else []


def _ablations(study: Study, definition: Mapping[str, Any], numbers: Sequence[int]) -> tuple[Child, ...]:
    """The children of Table III, Fig. 3 and Fig. 4: methods by numbers of sets, all of a seed before the next one."""
    seeds = (study.kind == "fig4" and study.scale.fig4_seeds) or (study.seed,)
    return tuple(
        Child(method, sets, _job(study, definition, method, weighting, sets, seed))
        for seed in dict.fromkeys(seeds)
        for sets in numbers
        for weighting in definition.get("loss_weightings", ("token",))
        for method in definition.get("methods", {})
    )


def _with_lengths(study: Study, definition: Mapping[str, Any]) -> Study:
    """The study of scales with its children."""
    scale, imported = study.scale, study.imported
    most = scale.extrapolation.longest // scale.divide_subcarriers
    counts, where = (imported.training, str(imported.source)) if imported else ({}, "study scales")
    chosen = choose_training_sets(study.preset, most, counts, where)
    base = _shared(study, definition)
    jobs = extrapolation_jobs(study.name, definition, base, study.store, chosen, scale.zeroshot_sets)
    children = tuple(Child(training, len(chosen.without), job) for training, job in jobs)
    return replace(study, children=children, left_out=[*study.left_out, chosen.text])


def _methods(study: Study, definition: Mapping[str, Any], stores: Stores, gpt2: Path | None) -> tuple[Child, ...]:
    """The children of Table II."""
    base, rivals = _shared(study, definition), study.scale.rivals
    sets = [row.name for row in study.preset.pretrain]
    pretrained = pretrained_jobs(study.name, definition, rivals, base, stores, sets)
    full_shot = full_shot_jobs(study.name, rivals, base, stores, gpt2)
    return (
        *(Child(job.model.name, len(sets), job) for job in pretrained),
        *(Child(job.model.name, 1, job) for job in full_shot),
    )


def make_study_store(study: Study, progress: Progress) -> None:
    """Make or import the channels that are not there yet."""
    study.store.parent.mkdir(parents=True, exist_ok=True)
    scale, rivals = study.scale, study.scale.rivals
    own = rivals.samples if study.kind == "table2" else 0
    if study.imported is not None:
        study.imported.bring(progress)
    if study.imported is None or study.imported.store != study.store:
        counts = Counts(train=scale.samples, val=0, test=scale.zeroshot_samples, zeroshot_train=own)
        make_store(study.store, study.preset, counts, study.seed, progress)
    if study.target_store is not None:
        targets = tuple(row for row in study.preset.zeroshot if row.name in rivals.targets)
        counts = Counts(train=0, val=0, test=scale.zeroshot_samples, zeroshot_train=own)
        make_store(study.target_store, Preset(study.preset.name, (), targets), counts, study.seed, progress)


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = parse_shipped(resources.files("jobs.studies").joinpath(f"{name}.yaml").read_text())
    return content


def _scaled(preset: Preset, scale: Scale, sets: int | list[str], targets: Sequence[str]) -> Preset:
    chosen = preset.pretrain[:sets] if isinstance(sets, int) else [row for row in preset.pretrain if row.name in sets]
    held_out = [row for row in preset.zeroshot if row.name in targets]
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
    study: Study, definition: Mapping[str, Any], method: str, weighting: LossWeighting, sets: int, seed: int
) -> JobSpec:
    name = f"{study.name}.sets-{sets}.{method}" + ("" if weighting == "token" else f".by-{weighting}")
    name += "" if seed == study.seed else f".seed-{seed}"
    base = _shared(study, definition)
    # By name: the store may hold others, of an earlier source or other targets.
    data = {
        "store": str(study.store.absolute()),
        "sets": [row.name for row in study.preset.pretrain[:sets]],
        "zeroshot_sets": list(study.scale.zeroshot_sets),
    }
    fields = {
        **base,
        "name": name,
        "seed": seed,
        "data": data,
        "batching": {**base["batching"], **definition["methods"][method]},
        "train": {**base["train"], "loss_weighting": weighting},
    }
    return validate(JobSpec, fields, f"run {name}")


def _shared(study: Study, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a job that the runs of a study have in common."""
    scale = study.scale
    train = {"epochs": scale.epochs, "optimizer": scale.optimizer, "lr": scale.lr, "warmup_epochs": scale.epochs / 15}
    return {
        "description": definition["description"],
        "seed": study.seed,
        "model": {"name": "hetercsi", "size": scale.model, "position": scale.position},
        "batching": {
            "global_batch": scale.global_batch,
            "partitions": scale.workers,
            "micro_batch": scale.global_batch,
        },
        "train": train if scale.muon_lr is None else {**train, "muon_lr": scale.muon_lr},
        "scale": {"workers": scale.workers},
        "checkpoint": {"every_steps": 500},
        "evaluation": {"references": False},
    }
