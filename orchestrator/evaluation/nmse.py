"""Zero-shot evaluation: per-sample NMSE on held-out sets, beside predictions that need no training.

NMSE of a sample is sum |y - prediction|^2 / sum |y|^2 over the masked valid tokens (HeterCSI section V; PAPERS 2.8). It
is taken twice: against the noisy channel that was also the input (``noisy``, as published; with 20 dB it cannot fall
under -20.04 dB) and against the clean one (``clean``). Samples are averaged linearly.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from channels.signal import add_noise, sample_keys
from channels.store import ChannelStore
from models.elements import find_elements
from models.export import load_model
from models.interface import EvaluationTask, ModelSpec, PretrainingModel, TokenBatch, collate
from models.predictors.lmmse import Covariance
from orchestrator.data.forms import Origin, sample_shape, token_lengths
from orchestrator.data.reader import chosen_zeroshot_sets, read_samples
from orchestrator.evaluation.directions import Directions, WholeVectors, compare_all
from orchestrator.evaluation.references import reference_guesses, training_covariance
from orchestrator.evaluation.score import CLEAN, MODEL, NOISY, Score
from orchestrator.spec.evaluation import EvaluationSection
from orchestrator.spec.job import JobSpec


@dataclass(slots=True)
class _Found:
    """Scores of one predictor against one target, an entry a batch."""

    nmse: list[NDArray[np.float64]] = field(default_factory=list)
    directions: list[Directions] = field(default_factory=list)

    def score(self, task: str, set_name: str, predictor: str, target: str) -> Score | None:
        """The means over the samples; None where nothing was masked."""
        nmse = np.concatenate(self.nmse)
        if not len(nmse):
            return None
        sgcs = _mean([found.sgcs for found in self.directions])
        se_share = _mean([found.se_share for found in self.directions])
        return Score(task, set_name, predictor, target, float(nmse.mean()), len(nmse), sgcs, se_share)


def _mean(parts: Sequence[NDArray[np.float64]]) -> float | None:
    """Over the samples of all batches; None where there is none."""
    values = np.concatenate(parts) if parts else np.empty(0)
    return float(values.mean()) if len(values) else None


def check_zeroshot_sets(store: ChannelStore, job: JobSpec, spec: ModelSpec) -> tuple[str, ...]:
    """Names of the sets to be evaluated.

    Raises:
        UserError: a set lacks the split or has a scale that the model cannot take, or there is no set though the job
            wants the best model to be chosen by them.
    """
    names = chosen_zeroshot_sets(store, job.data)
    if not names and job.evaluation.every_epochs is not None and job.evaluation.select == "zeroshot":
        raise UserError(
            "there is no held-out set to choose the best model by", where="evaluation.select", mend="set it to val"
        )
    for name in names:
        split = store.sets[name].splits.get(job.evaluation.split)
        if split is None or split.count == 0:
            raise UserError(
                f"set {name} has no {job.evaluation.split} samples", where=str(store.path), mend="set evaluation.split"
            )
        token_lengths(spec, name, store.sets[name].spec.shape, (task.variant for task in spec.evaluation_tasks))
    return names


def evaluate_set(export: Path, store_path: Path, set_name: str, job: JobSpec, device: str = "cpu") -> list[Score]:
    """All scores of an exported model on one set; a task that masks nothing of its samples has none."""
    spec, model = load_model(export)
    return score_set(spec, model.to(device).eval(), ChannelStore.open(store_path), set_name, job, device)


def score_set(
    spec: ModelSpec, model: PretrainingModel, store: ChannelStore, set_name: str, job: JobSpec, device: str
) -> list[Score]:
    """The same of a model that is loaded, on the device and in evaluation mode."""
    covariance = None
    if "lmmse" in job.evaluation.reference_names:
        origin = origin_of(spec, store, set_name, spec.evaluation_tasks[0].variant)
        covariance = training_covariance(store, origin, job, device)
    scores: list[Score] = []
    for task in spec.evaluation_tasks:
        scores.extend(_evaluate_task(spec, model, store, set_name, task, job, device, covariance))
    return scores


def _evaluate_task(
    spec: ModelSpec,
    model: PretrainingModel,
    store: ChannelStore,
    set_name: str,
    task: EvaluationTask,
    job: JobSpec,
    device: str,
    covariance: Covariance | None,
) -> list[Score]:
    elements = find_elements(spec, sample_shape(origin_of(spec, store, set_name, task.variant)), task.variant, device)
    found: dict[tuple[str, str], _Found] = defaultdict(_Found)
    section = job.evaluation
    with torch.inference_mode():
        for noisy, clean in scored_batches(spec, store, set_name, task.variant, job, device):
            prediction = model.predict(noisy, task.name, section.seed)
            masked = prediction.masked
            guesses = {MODEL: prediction.values}
            names = section.reference_names
            guesses |= reference_guesses(names, spec, task, noisy, masked, elements, covariance)
            targets = {NOISY: noisy.tokens, CLEAN: clean}
            counted = counted_elements(masked, noisy.elements)
            for target, truth in targets.items():
                power = summed_squares(truth, counted)
                for predictor, values in guesses.items():
                    found[predictor, target].nmse.append(sample_nmse(values, truth, counted, power))
            if elements is not None and section.link_snr_db is not None:
                whole = WholeVectors.of(elements, masked)
                for who, directions in compare_all(whole, guesses, targets, section.link_snr_db).items():
                    found[who].directions.append(directions)
    scores = (of.score(task.name, set_name, *who) for who, of in found.items())
    return [score for score in scores if score is not None]


def origin_of(spec: ModelSpec, store: ChannelStore, set_name: str, variant: int) -> Origin:
    """A set of the store, read at one granularity."""
    shape = store.sets[set_name].spec.shape
    return Origin(set_name, shape, variant, spec.samples_per_stored(shape))


def scored_batches(
    spec: ModelSpec, store: ChannelStore, set_name: str, variant: int, job: JobSpec, device: str
) -> Iterator[tuple[TokenBatch, Tensor]]:
    """Noisy batches and the clean tokens beside them; the noise is the same in every evaluation."""
    section: EvaluationSection = job.evaluation
    entry = store.sets[set_name]
    origin = origin_of(spec, store, set_name, variant)
    stored = min(entry.splits[section.split].count, section.samples or entry.splits[section.split].count)
    for first in range(0, stored * origin.samples_per_stored, section.batch):
        index = np.arange(first, min(first + section.batch, stored * origin.samples_per_stored), dtype=np.int64)
        keys = sample_keys(set_name, section.split, index)
        clean = read_samples(store, origin, section.split, index)
        noisy = clean if job.data.snr_db is None else add_noise(clean, job.data.snr_db, section.seed, keys, epoch=0)
        weight = np.ones(len(index), np.float32)
        batch = collate([spec.tokenise(noisy, variant)], keys, weight, variant).to(device)
        yield batch, torch.from_numpy(spec.tokenise(clean, variant).values).to(device)


def counted_elements(masked: Tensor, elements: Tensor | None) -> Tensor:
    """What an error counts, bool [B, L, 1 or D] of masked tokens [B, L] and real elements [B, L, D] (None: all)."""
    return masked[..., None] if elements is None else masked[..., None] & elements


def summed_squares(values: Tensor, counted: Tensor) -> Tensor:
    """Float64 [B], over the counted of values [B, L, D]."""
    return (values.double().square() * counted).sum(dim=(1, 2))


def sample_nmse(values: Tensor, truth: Tensor, counted: Tensor, power: Tensor) -> NDArray[np.float64]:
    """NMSE of each sample that has anything masked, float64 [<= B].

    values, truth: [B, L, D]. counted: bool [B, L, 1 or D]. power: float64 [B], the ``summed_squares`` of the truth.
    """
    error = summed_squares(values - truth, counted)
    scored = power > 0
    result: NDArray[np.float64] = (error[scored] / power[scored]).cpu().numpy()
    return result
