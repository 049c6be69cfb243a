"""Small stores of two scenes with labels, and exports of untrained models, for the tests of downstream tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.store import ChannelStore
from channels.writer import open_writer
from models.export import save_model
from models.registry import make_spec
from orchestrator.downstream.pool import Pool, open_pool
from orchestrator.downstream.spec import DownstreamSpec, make_comparison

Labels = Mapping[str, NDArray[Any]]
SHAPE = (1, 8, 8)
MODELS: dict[str, dict[str, Any]] = {
    "wimamba": {"size": "tiny", "patches": [4, 6]},
    "lwm": {"size": "tiny", "patches": [4]},
    "hetercsi": {"size": "tiny", "position": "grid"},
}


def spec_of(name: str, scenario: str = "", shape: tuple[int, int, int] = SHAPE, rows: int = 1) -> ChannelSpec:
    slots, subcarriers, antennas = shape
    return ChannelSpec(
        name=name, fc_ghz=3.5, subcarriers=subcarriers, subcarrier_spacing_khz=480.0, slots=slots, slot_ms=1.0,
        rows=rows, cols=antennas // rows, scenario=scenario or name, los=None, speed_kmh=(0.0, 0.0),
    )  # fmt: skip


def users_of(
    count: int, seed: int, shape: tuple[int, int, int] = SHAPE
) -> tuple[NDArray[np.complex64], dict[str, Any]]:
    """Users around a transmitter at the origin: one path from their direction, blocked behind a wall at x < 0."""
    random = np.random.default_rng(seed)
    position = random.uniform(-50, 50, (count, 3)) * [1, 1, 0]
    angle, distance = np.arctan2(position[:, 1], position[:, 0]), np.linalg.norm(position, axis=1)
    turns = (np.sin(angle) / 2)[:, None] * np.arange(shape[2])
    delays = (distance / 100)[:, None] * np.arange(shape[1])
    channel = np.exp(2j * np.pi * (turns[:, None, None, :] - delays[:, None, :, None]))
    scatter = random.normal(size=(2, count, *shape))
    los = position[:, 0] > 0
    channel = channel + np.where(los, 0.1, 1.0)[:, None, None, None] * (scatter[0] + 1j * scatter[1])
    channel = np.broadcast_to(channel, (count, *shape))
    labels = {
        "los": los.astype(np.int8), "pos": position.astype(np.float32),
        "gain_db": (-20 * np.log10(1 + distance)).astype(np.float32),
        "tx_pos": np.zeros((count, 3), np.float32), "three": (np.arange(count) % 3).astype(np.int64),
    }  # fmt: skip
    return channel.astype(np.complex64), labels


def write_set(store: Path, spec: ChannelSpec, channel: NDArray[np.complex64], labels: Labels, **splits: int) -> None:
    """Add a set to a store; splits: samples of each, all train by default."""
    splits = splits or {"train": len(channel)}
    parts, start = {}, 0
    for split, count in splits.items():
        some = slice(start, start + count)
        parts[split] = [Samples(channel[some], {name: value[some] for name, value in labels.items()})]
        start += count
    with open_writer(store) as writer:
        writer.add_set(spec, "pretrain", splits, parts, {"seed": 0})


def make_scenes(store: Path, count: int = 60) -> Path:
    """Two scenes, A and B."""
    for number, name in enumerate("AB"):
        write_set(store, spec_of(name), *users_of(count, number), train=count - 10, val=10)
    return store


def pool_of(store: Path, **options: Any) -> Pool:
    return open_pool(ChannelStore.open(store), options.get("sets"), options.get("samples"), ("gain_db",))


def make_exports(folder: Path, *names: str) -> dict[str, Path | None]:
    """Exports of untrained models by name; raw has none."""
    found: dict[str, Path | None] = {}
    for name in names:
        found[name] = None if name == "raw" else folder / name
        if name != "raw":
            save_model(folder / name, name, MODELS[name], make_spec(name, MODELS[name]).build(0))
    return found


def comparison(store: Path, exports: Mapping[str, Path | None], **fields: Any) -> DownstreamSpec:
    """A specification with two shares and two seeds."""
    base = {
        "store": str(store), "encoders": {name: str(path or "raw") for name, path in exports.items()},
        "shares": [50, 100], "seeds": 2, "split": {"regions": 8},
    }  # fmt: skip
    return make_comparison({**base, **fields}, [], "test")
