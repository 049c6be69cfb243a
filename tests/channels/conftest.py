from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.writer import open_writer


@pytest.fixture
def spec() -> ChannelSpec:
    return ChannelSpec(
        name="S1",
        fc_ghz=2.5,
        subcarriers=6,
        subcarrier_spacing_khz=60.0,
        slots=3,
        slot_ms=0.5,
        rows=1,
        cols=2,
        scenario="UMi",
        los=True,
        speed_kmh=(3.0, 30.0),
    )


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Complex Gaussian samples of a shape."""

    def draw(*shape: int, seed: int = 0) -> np.ndarray:
        parts = np.random.default_rng(seed).standard_normal((*shape, 2), np.float32)
        return parts.view(np.complex64)[..., 0]

    return draw


@pytest.fixture
def store(tmp_path: Path, spec: ChannelSpec, noise: Callable[..., np.ndarray]) -> Path:
    """A store of one set: 10 training samples in 3 shards, 3 of validation."""
    path = tmp_path / "store"
    channel = noise(13, *spec.shape)
    splits = {"train": [Samples(channel[:10], {})], "val": [Samples(channel[10:], {})]}
    with open_writer(path, shard_samples=4) as writer:
        writer.add_set(spec, "pretrain", {"train": 10, "val": 3}, splits, {"seed": 0})
    return path
