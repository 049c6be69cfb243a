"""The runs of Table II: models that are pre-trained on all sets, rivals that are trained on each target set alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from orchestrator.spec.job import JobSpec
from orchestrator.spec.section import Positive, Section
from orchestrator.spec.yaml_files import validate

Rival = Literal["lstm", "transformer", "llm4cp", "bert4mimo"]
SEQUENCES: tuple[Rival, ...] = ("lstm", "transformer", "llm4cp")
"""Rivals that are trained for one task of the two."""
SNAPSHOTS = 8
"""Times as many samples a batch for BERT4MIMO, whose samples are single slots."""
GPT2_SMALL = {"layers": 6, "width": 768, "heads": 12}
REFERENCES = ("repeat_last", "pad", "prony", "lmmse")


class RivalScale(Section):
    """How large Table II is; the fields are described in ``studies/scales.yaml``."""

    targets: tuple[str, ...]
    sets: Positive
    epochs: Positive
    wifo: Literal["tiny", "little", "small", "base", "large"]
    samples: Positive
    target_epochs: Positive
    batch: Positive
    lr: float
    models: Mapping[Rival, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Stores:
    """Where channels lie. scored: pre-training sets and the targets' test samples. targets: the targets' training
    samples; the same store where all are made, another one where the targets that are scored bring none."""

    scored: Path
    targets: Path


def pretrained_jobs(
    study: str,
    definition: Mapping[str, Any],
    scale: RivalScale,
    base: Mapping[str, Any],
    stores: Stores,
    sets: Sequence[str],
) -> list[JobSpec]:
    """HeterCSI, which also scores the predictions without training, and WiFo. base: fields that all runs share. sets:
    names of those to train on."""
    data = {"store": str(stores.scored.absolute()), "sets": list(sets), "zeroshot_sets": list(scale.targets)}
    options = {"hetercsi": base["model"], "wifo": {"name": "wifo", "size": scale.wifo}}
    jobs = []
    for method, fields in definition["models"].items():
        train = {**base["train"], "epochs": scale.epochs, "warmup_epochs": scale.epochs / 15}
        section = {
            **base,
            "name": f"{study}.{method}",
            "data": data,
            "model": options[method],
            "batching": {**base["batching"], **fields.get("batching", {})},
            "train": {**train, **fields.get("train", {})},
            "evaluation": {"batch": 16, "references": list(REFERENCES) if method == "hetercsi" else False},
        }
        jobs.append(validate(JobSpec, section, f"run {study}.{method}"))
    return jobs


def full_shot_jobs(
    study: str, scale: RivalScale, base: Mapping[str, Any], stores: Stores, gpt2: Path | None
) -> list[JobSpec]:
    """Every rival on every target, models of sequences once for each of their tasks."""
    jobs = []
    workers = base["scale"]["workers"]
    for target in scale.targets:
        for rival, task in _trained(scale):
            options = dict(scale.models[rival])
            if rival == "llm4cp" and gpt2 is not None:
                options |= {**GPT2_SMALL, "gpt2": str(gpt2.absolute())}
            name = f"{study}.{target}.{rival}" + ("" if task is None else f".{task}")
            batch = scale.batch * (SNAPSHOTS if rival == "bert4mimo" else 1)
            section = {
                **base,
                "name": name,
                "data": {"store": str(stores.targets.absolute()), "target": target, "samples": scale.samples},
                "model": {"name": rival, **options} | ({} if task is None else {"task": task}),
                "batching": {"strategy": "bucket", "buckets": 1, "global_batch": batch, "partitions": workers,
                             "micro_batch": batch},
                "train": {"epochs": scale.target_epochs, "lr": scale.lr, "warmup_epochs": scale.target_epochs / 15},
                "evaluation": {"batch": 16, "references": False},
            }  # fmt: skip
            jobs.append(validate(JobSpec, section, f"run {name}"))
    return jobs


def _trained(scale: RivalScale) -> list[tuple[Rival, str | None]]:
    sequences = [rival for rival in SEQUENCES if rival in scale.models and not missing(rival)]
    runs: list[tuple[Rival, str | None]] = [(rival, task) for rival in sequences for task in ("time", "frequency")]
    return [*runs, ("bert4mimo", None)] if "bert4mimo" in scale.models else runs


def missing(rival: str) -> str | None:
    """Why a rival cannot be trained here, or None."""
    if rival == "llm4cp" and find_spec("transformers") is None:
        return "LLM4CP is left out: it needs the extra, pip install 'wavetrain[baselines]'."
    return None
