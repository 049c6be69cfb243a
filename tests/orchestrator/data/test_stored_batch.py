"""Batches that a device makes itself: those of the host to the last bit, noise and all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from channels.augment import AUGMENTATIONS, Augmentation
from channels.errors import UserError
from channels.shards import Samples
from channels.writer import open_writer
from models.interface import PackedBatch, TokenBatch
from models.registry import make_spec
from orchestrator.data.device_signal import NormalTables
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.spec.data import DataSection
from orchestrator.spec.train import LossWeighting
from samplers.schedule import Slice
from tests.stores import make_random_store, plane_waves, spec_of

MODELS = {"hetercsi": {"size": "tiny"}, "wimamba": {"patches": [4]}, "lwm": {"size": "tiny", "patches": [4]}}
SOURCES = [0, 1, 3, 1, 2, 0]
"""Sets of the small store, of 8, 16, 12 and 6 tokens (the last one in partial patches)."""


@pytest.fixture(scope="module")
def planar_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of planar arrays, of two and three rows."""
    path = tmp_path_factory.mktemp("planar") / "store"
    shapes, rows = {"Q2": (8, 16, 4), "Q3": (6, 10, 12)}, {"Q2": 2, "Q3": 3}
    return make_random_store(path, np.random.default_rng(5), shapes=shapes, rows=rows)


@pytest.fixture(scope="module")
def tables() -> NormalTables:
    return NormalTables.on("cpu")


def opened(
    store: Path,
    name: str,
    *,
    snr_db: float | None = 20.0,
    packed: bool = False,
    weighting: LossWeighting = "token",
    augment: tuple[Augmentation, ...] = (),
) -> TrainingData:
    spec = make_spec(name, MODELS[name])
    section = DataSection(store=store, snr_db=snr_db, augment=augment)
    return open_training_data(section, spec, 3, packed=packed, loss_weighting=weighting)[1]


def slice_of(sources: list[int], epoch: int = 5) -> Slice:
    index = np.arange(len(sources), dtype=np.int64) * 7 % 45
    weight = np.ones(len(sources), np.float32)
    weight[-1] = 0
    return Slice(0, 4, np.asarray(sources, np.int32), index, weight, epoch)


def assert_same(found: TokenBatch | PackedBatch, expected: TokenBatch | PackedBatch) -> None:
    assert type(found) is type(expected)
    for name in type(expected).__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name
        else:
            assert ours == theirs, name


@pytest.mark.parametrize("snr_db", [20.0, None], ids=["noise", "clean"])
@pytest.mark.parametrize("sources", [SOURCES, [1, 1, 1], [3, 3], [3, 0]], ids=str)
@pytest.mark.parametrize(
    ("name", "packed"),
    [("hetercsi", False), ("hetercsi", True), ("wimamba", False), ("lwm", False)],
    ids=["hetercsi", "hetercsi packed", "wimamba", "lwm"],
)
def test_batches_are_those_of_the_host(
    name: str, packed: bool, sources: list[int], snr_db: float | None, small_store: Path, tables: NormalTables
) -> None:
    data = opened(small_store, name, snr_db=snr_db, packed=packed)
    slice_ = slice_of(sources)
    assert_same(data.stored_batch(slice_, tables).prepared(), data.batch(slice_))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_weights_by_sample_are_those_of_the_host(packed: bool, small_store: Path, tables: NormalTables) -> None:
    data = opened(small_store, "hetercsi", packed=packed, weighting="sample")
    assert_same(data.stored_batch(slice_of(SOURCES), tables).prepared(), data.batch(slice_of(SOURCES)))


@pytest.mark.parametrize("snr_db", [20.0, None], ids=["noise", "clean"])
@pytest.mark.parametrize("augment", [AUGMENTATIONS, ("phase",), ("mirror_azimuth",)], ids=["all", "phase", "azimuth"])
@pytest.mark.parametrize(
    ("name", "packed"), [("hetercsi", False), ("hetercsi", True), ("wimamba", False)], ids=["padded", "packed", "slots"]
)
def test_augmented_batches_are_those_of_the_host(
    name: str,
    packed: bool,
    augment: tuple[Augmentation, ...],
    snr_db: float | None,
    planar_store: Path,
    tables: NormalTables,
) -> None:
    data = opened(planar_store, name, snr_db=snr_db, packed=packed, augment=augment)
    slice_ = slice_of([0, 1, 1, 0, 1, 1, 0, 1, 0, 1])
    batch = data.batch(slice_)
    assert not torch.equal(batch.tokens, opened(planar_store, name, snr_db=snr_db, packed=packed).batch(slice_).tokens)
    assert_same(data.stored_batch(slice_, tables).to("cpu").prepared(), batch)


def test_noise_is_fresh_in_every_epoch(small_store: Path, tables: NormalTables) -> None:
    data = opened(small_store, "hetercsi")
    first, second = (data.stored_batch(slice_of(SOURCES, epoch), tables).prepared() for epoch in (0, 1))
    assert not torch.equal(first.tokens, second.tokens)


def test_an_unknown_granularity_is_refused_as_on_the_host(small_store: Path) -> None:
    spec = opened(small_store, "wimamba").spec
    for refused in (lambda: spec.grid((1, 16, 4), 3), lambda: spec.patch(torch.zeros(1, 1, 16, 4), 3)):
        with pytest.raises(UserError, match="granularity 3"):
            refused()


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_bad_sample_is_named_before_it_leaves_the_host(value: float, tmp_path: Path, tables: NormalTables) -> None:
    channels = plane_waves((4, 8, 4), 6, np.random.default_rng(0))
    with open_writer(tmp_path / "store", shard_samples=6) as writer:
        parts = {"train": [Samples(channels, {})]}
        writer.add_set(spec_of("R1", (4, 8, 4)), "pretrain", {"train": 6}, parts, {"seed": 0})
    # A store is never made so; its file goes bad later.
    [shard] = (tmp_path / "store").rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    size = channels[0].nbytes
    content[-4 * size : -3 * size] = np.full(size // 4, value, np.float32).tobytes()
    shard.write_bytes(content)
    data = opened(tmp_path / "store", "hetercsi")
    slice_ = replace(slice_of([0, 0, 0]), index=np.array([5, 2, 0]))
    errors = []
    for read in (lambda: data.batch(slice_), lambda: data.stored_batch(slice_, tables)):
        with pytest.raises(UserError, match=r"R1/train: sample 1 of the 3 read has mean power") as caught:
            read()
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
