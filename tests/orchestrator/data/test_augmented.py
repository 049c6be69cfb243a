"""Training samples are augmented, before their noise and each on its own; what is scored never is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from channels.augment import AUGMENTATIONS, Augmentation
from channels.signal import add_noise, sample_keys
from channels.store import ChannelStore
from models.registry import make_spec
from orchestrator.data.reader import SPLIT, TrainingData, open_training_data, read_samples
from orchestrator.evaluation.nmse import scored_batches
from orchestrator.spec.data import DataSection
from samplers.schedule import Slice
from tests.jobs_for_tests import small_job

INDEX = np.arange(24, dtype=np.int64)


def opened(
    store: Path, augment: tuple[Augmentation, ...] = AUGMENTATIONS, *, snr_db: float | None = 20.0
) -> TrainingData:
    section = DataSection(store=store, snr_db=snr_db, augment=augment)
    return open_training_data(section, make_spec("hetercsi", {"size": "tiny"}), 3)[1]


def slice_of(index: np.ndarray, epoch: int = 0) -> Slice:
    return Slice(0, 4, np.zeros(len(index), np.int32), index, np.ones(len(index), np.float32), epoch)


def test_without_augmentations_a_batch_is_what_it_was(small_store: Path) -> None:
    data = opened(small_store, ())
    origin = data.origins[0]
    keys = sample_keys(origin.set_name, SPLIT, INDEX)
    noisy = add_noise(read_samples(data.store, origin, SPLIT, INDEX), 20.0, 3, keys, 0)
    expected = torch.from_numpy(data.spec.tokenise(noisy, 4).values)
    assert torch.equal(data.batch(slice_of(INDEX)).tokens, expected)


def test_noise_is_added_after(small_store: Path) -> None:
    """It is that of the sample as it is stored: of its key and power, which no augmentation changes."""
    noises = []
    for augment in ((), AUGMENTATIONS):
        noisy, clean = (opened(small_store, augment, snr_db=snr_db).batch(slice_of(INDEX)) for snr_db in (20.0, None))
        noises.append(noisy.tokens - clean.tokens)
    torch.testing.assert_close(noises[1], noises[0], rtol=0, atol=1e-6)


def test_a_sample_is_the_same_in_every_batch_and_fresh_in_every_epoch(small_store: Path) -> None:
    data = opened(small_store)
    whole = data.batch(slice_of(INDEX)).tokens
    parts = [data.batch(slice_of(part)).tokens for part in np.array_split(INDEX, 5)]
    assert torch.equal(torch.cat(parts), whole)
    later = data.batch(slice_of(INDEX, epoch=1)).tokens
    clean = replace(data, snr_db=None)
    assert not torch.equal(later, whole)
    assert not torch.equal(clean.batch(slice_of(INDEX, epoch=1)).tokens, clean.batch(slice_of(INDEX)).tokens)


@pytest.mark.parametrize(("name", "split"), [("R1", "val"), ("H1", "test")])
def test_what_is_scored_is_not_augmented(name: str, split: str, small_store: Path) -> None:
    store, spec = ChannelStore.open(small_store), make_spec("hetercsi", {"size": "tiny"})
    found = []
    for augment in ((), AUGMENTATIONS):
        job = small_job(small_store, data={"augment": augment}, evaluation={"split": split})
        assert job.data.augment == augment
        [(noisy, clean)] = scored_batches(spec, store, name, 4, job, "cpu")
        found.append(torch.cat([noisy.tokens, clean]))
    assert torch.equal(*found)
