"""Predictions beside the model's: those of models.references from tokens, and those that need the channels themselves.

``pad`` and ``prony`` continue the slots, where the first ones are known whole and the others not at all. ``lmmse``
needs training samples of the set it is scored on. A prediction that does not apply to a task or a set is left out.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from channels.store import ChannelStore
from models.elements import Elements
from models.interface import EvaluationTask, ModelSpec, TokenBatch
from models.predictors.lmmse import Covariance, CovarianceSum, estimate
from models.predictors.prony import predict_pad, predict_prony
from models.references import REFERENCES
from orchestrator.data.forms import Origin, sample_shape
from orchestrator.data.reader import read_samples
from orchestrator.spec.job import JobSpec

SPLIT, SAMPLES, BATCH = "train", 512, 64
"""Where statistics come from, at most how many samples, and how many are read at once."""


def reference_guesses(
    names: Sequence[str],
    spec: ModelSpec,
    task: EvaluationTask,
    batch: TokenBatch,
    masked: Tensor,
    elements: Elements | None,
    covariance: Covariance | None,
) -> dict[str, Tensor]:
    """Tokens [B, L, D] by name, of those named that apply.

    masked: bool [B, L]. elements: None where the model's tokens are no plain channels; nor then is there more than
    what the model's own specification predicts. covariance: of the set, None without training samples.
    """
    guesses = {name: spec.reference(name, task, batch, masked) for name in map(str, REFERENCES) if name in names}
    if elements is None:
        return guesses
    channels, known = elements.channels(batch.tokens), ~elements.masked(masked)
    slots = _known_slots(known)
    for name, predict in (("pad", predict_pad), ("prony", predict_prony)):
        if name in names and slots is not None:
            later = predict(channels[:, :slots], channels.shape[1] - slots)
            guesses[name] = elements.tokens(torch.cat([channels[:, :slots], later], dim=1), batch.tokens)
    if "lmmse" in names and covariance is not None:
        guesses["lmmse"] = elements.tokens(estimate(channels, known, covariance), batch.tokens)
    return guesses


def training_covariance(store: ChannelStore, origin: Origin, job: JobSpec, device: str) -> Covariance | None:
    """Of the first training samples of a set; None where it has none, or where they are what is scored."""
    split = store.sets[origin.set_name].splits.get(SPLIT)
    if split is None or not split.count or job.evaluation.split == SPLIT:
        return None
    total = CovarianceSum(sample_shape(origin), device)
    count = min(split.count * origin.samples_per_stored, SAMPLES)
    for first in range(0, count, BATCH):
        index = np.arange(first, min(first + BATCH, count), dtype=np.int64)
        total.add(torch.from_numpy(read_samples(store, origin, SPLIT, index)).to(device))
    return total.result(0.0 if job.data.snr_db is None else 10 ** (-job.data.snr_db / 10))


def _known_slots(known: Tensor) -> int | None:
    """How many of the first slots are known of all samples, bool [n, T, K, A], if the others are not at all.

    None where it is not so, or where fewer than two are known or none is to be predicted.
    """
    along = known.movedim(1, 0).flatten(1)
    whole = along.all(dim=1)
    slots = int(whole.sum())
    is_start = bool(whole[:slots].all()) and torch.equal(whole, along.any(dim=1))
    return slots if is_start and 2 <= slots < known.shape[1] else None
