"""Loss and NMSE on validation samples of the pre-training sets: what tells whether more training helps, and how much.

Noise and masks are the same at every validation, so that its values can be compared over a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from channels.errors import UserError
from channels.store import ChannelStore
from models.export import load_model
from models.interface import MaskDraw, ModelSpec, PretrainingModel
from orchestrator.data.forms import sample_shape
from orchestrator.data.reader import chosen_sets
from orchestrator.evaluation.nmse import origin_of, score_set, scored_batches
from orchestrator.evaluation.score import MODEL, NOISY, averages, decibels, overall
from orchestrator.spec.job import JobSpec

SPLIT = "val"


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores of one model. loss: as the training's, over the masked tokens of all sets. nmse: linear, the mean over
    the sets of each task. overall: the mean over the tasks, one number for a model."""

    loss: float
    nmse: Mapping[str, float]
    overall: float

    def to_metrics(self) -> dict[str, float]:
        """MLflow names: ``val/loss``, ``val/nmse_db/<task>/avg``, ``val/nmse_db/avg``."""
        tasks = {f"val/nmse_db/{task}/avg": decibels(value) for task, value in self.nmse.items()}
        return {"val/loss": self.loss, **tasks, "val/nmse_db/avg": decibels(self.overall)}


def check_validation_sets(store: ChannelStore, job: JobSpec) -> tuple[str, ...]:
    """Names of the pre-training sets with validation samples, none where nothing is scored beside the training.

    Raises:
        UserError: no set has any, though the job wants the best model to be chosen by them.
    """
    if job.evaluation.every_epochs is None:
        return ()
    names = [name for name in chosen_sets(store, job.data) if _count(store, name)]
    if not names and job.evaluation.select == "val":
        mend = "set it to zeroshot or last, or make or import the store with a val split"
        what = f"no set of {store.path} that is trained on has validation samples"
        raise UserError(what, where="evaluation.select val", mend=mend)
    return tuple(names)


def validate(export: Path, store_path: Path, names: Sequence[str], job: JobSpec, device: str = "cpu") -> Validation:
    """Score an exported model on the first ``evaluation.validation_samples`` of each set's validation split."""
    changes = {"split": SPLIT, "samples": job.evaluation.validation_samples, "references": False, "link_snr_db": None}
    job = job.model_copy(update={"evaluation": job.evaluation.model_copy(update=changes)})
    spec, model = load_model(export)
    model = model.to(device).eval()
    store = ChannelStore.open(store_path)
    scores = [score for name in names for score in score_set(spec, model, store, name, job, device)]
    by_task = {
        task: value
        for (task, predictor, target), value in averages(scores).items()
        if (predictor, target) == (MODEL, NOISY)
    }
    return Validation(_loss(spec, model, store, names, job, device), by_task, overall(scores))


def _loss(
    spec: ModelSpec, model: PretrainingModel, store: ChannelStore, names: Sequence[str], job: JobSpec, device: str
) -> float:
    """Mean over the tasks that mask anything of the loss over the masked tokens of all sets and granularities."""
    sums: NDArray[np.float64] = np.zeros(len(spec.tasks))
    targets: NDArray[np.float64] = np.zeros(len(spec.tasks))
    with torch.inference_mode():
        for name in names:
            for variant in spec.variants:
                part, masked = _loss_sums(spec, model, store, name, variant, job, device)
                sums, targets = sums + part, targets + masked
    present = targets > 0
    return float((sums[present] / targets[present]).mean())


def _loss_sums(
    spec: ModelSpec, model: PretrainingModel, store: ChannelStore, name: str, variant: int, job: JobSpec, device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the loss and masked tokens, float64 [tasks] each, of one set at one granularity."""
    shape = sample_shape(origin_of(spec, store, name, variant))
    sums, count = np.zeros(len(spec.tasks)), 0
    for noisy, _ in scored_batches(spec, store, name, variant, job, device):
        sums += model(noisy, MaskDraw(seed=job.evaluation.seed, epoch=0)).double().cpu().numpy()
        count += len(noisy.tokens)
    return sums, count * np.asarray(spec.target_tokens(shape, variant), np.float64)


def _count(store: ChannelStore, name: str) -> int:
    split = store.sets[name].splits.get(SPLIT)
    return 0 if split is None else split.count
