"""Small stores of synthetic channels (a few plane waves a sample) for tests."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.writer import open_writer

SHAPES = {"R1": (8, 16, 4), "R2": (8, 16, 8), "R3": (12, 16, 4), "R4": (6, 10, 4)}
VALIDATION = 6
HELD_OUT = {"H1": (8, 16, 4), "H2": (12, 16, 8)}


def plane_waves(shape: tuple[int, int, int], count: int, random: np.random.Generator) -> NDArray[np.complex64]:
    """Channels [count, T, K, A] of three paths with random gains and rotations along every axis."""
    channels = np.zeros((count, *shape), np.complex128)
    for _ in range(3):
        gain = random.normal(size=(count, 2)) @ np.array([1, 1j])
        turns = random.uniform(-0.08, 0.08, (count, 3))
        axes = [np.exp(2j * np.pi * turns[:, [axis]] * np.arange(size)) for axis, size in enumerate(shape)]
        channels += gain[:, None, None, None] * np.einsum("nt,nk,na->ntka", *axes)
    return (1e-4 * channels).astype(np.complex64)


def spec_of(name: str, shape: tuple[int, int, int], rows: int = 1) -> ChannelSpec:
    """A specification of that scale."""
    slots, subcarriers, antennas = shape
    return ChannelSpec(
        name=name, fc_ghz=2.0, subcarriers=subcarriers, subcarrier_spacing_khz=30.0, slots=slots, slot_ms=1.0,
        rows=rows, cols=antennas // rows, scenario="UMi", los=True, speed_kmh=(3.0, 30.0),
    )  # fmt: skip


def make_random_store(
    path: Path,
    random: np.random.Generator,
    *,
    train: int = 45,
    test: int = 10,
    shapes: dict[str, tuple[int, int, int]] = SHAPES,
    shard_samples: int = 16,
    rows: Mapping[str, int] = MappingProxyType({}),
) -> Path:
    """Pre-training sets with ``train`` and six validation samples, held-out sets with ``test`` samples each.

    rows: of the arrays that are no line.
    """
    held_back = np.random.default_rng(11)
    with open_writer(path, shard_samples=shard_samples) as writer:
        for name, shape in shapes.items():
            channels = Samples(plane_waves(shape, train, random), {})
            validation = Samples(plane_waves(shape, VALIDATION, held_back), {})
            counts, splits = {"train": train, "val": VALIDATION}, {"train": [channels], "val": [validation]}
            writer.add_set(spec_of(name, shape, rows.get(name, 1)), "pretrain", counts, splits, {"seed": 0})
        for name, shape in HELD_OUT.items():
            channels = Samples(plane_waves(shape, test, random), {})
            writer.add_set(spec_of(name, shape), "zeroshot", {"test": test}, {"test": [channels]}, {"seed": 0})
    return path
