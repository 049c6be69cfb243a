"""Small sources in the layouts that the field publishes, written as their authors write them."""

from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

from channels.importers.options import ImportOptions
from channels.importers.write import import_source
from channels.presets import load_preset
from channels.spec import ChannelSpec
from channels.store import ChannelStore

COMPOUND = np.dtype([("real", "<f4"), ("imag", "<f4")])
D3 = next(spec for spec in load_preset("hetercsi").zeroshot if spec.name == "D3")
P01, P03, P05 = (spec for spec in load_preset("hetercsi").pretrain if spec.name in ("P01", "P03", "P05"))
TINY = ChannelSpec.from_mapping(
    D3.to_mapping() | {"name": "tiny", "slots": 4, "subcarriers": 8, "rows": 1, "cols": 2, "los": True}, "test"
)
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def quiet(*_: object) -> None:
    pass


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Complex Gaussian numbers."""
    parts = np.random.default_rng(seed).standard_normal((*shape, 2), np.float32)
    return parts.view(np.complex64)[..., 0]


def load(source: Path, store: Path, **options: object) -> ChannelStore:
    """A source imported and opened."""
    import_source(source, store, ImportOptions(**options), quiet)
    return ChannelStore.open(store)


def whole(store: ChannelStore, name: str, split: str) -> np.ndarray:
    """All channels of a split."""
    return store.read(name, split, np.arange(store.sets[name].splits[split].count))


def labels(store: ChannelStore, name: str, split: str) -> dict[str, np.ndarray]:
    """All labels of a split."""
    return store.labels(name, split, np.arange(store.sets[name].splits[split].count))


def compound(channel: np.ndarray) -> np.ndarray:
    """An array as MATLAB 7.3 keeps it: axes in reverse, records of real and imaginary part."""
    records = np.empty(channel.shape[::-1], COMPOUND)
    records["real"], records["imag"] = channel.real.T, channel.imag.T
    return records


def write_split(folder: Path, split: str, channel: np.ndarray, **how: object) -> None:
    """A HeterCSI file with speeds of 0, 1, 2, ... km/h."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{split}_data.mat", "w", userblock_size=512) as file:
        file.create_dataset(f"H_{split}", data=compound(channel), **how)
        file[f"speed_{split}"] = np.arange(float(len(channel)))[None]


def write_config(folder: Path, spec: ChannelSpec, **changes: object) -> None:
    """A HeterCSI configuration, in Hz and seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "config.mat", config_of(spec) | changes)


def config_of(spec: ChannelSpec) -> dict[str, object]:
    return {
        "fc": spec.fc_ghz * 1e9,
        "K": float(spec.subcarriers),
        "delta_f": spec.subcarrier_spacing_khz * 1e3,
        "T": float(spec.slots),
        "delta_t": spec.slot_ms / 1e3,
        "UPA": [float(spec.rows), float(spec.cols)],
        "scenario": f"3GPP_38.901_{spec.scenario}_{'LOS' if spec.los else 'NLOS'}",
    }


def write_wifo(folder: Path, channel: np.ndarray, *, old: bool = False, **others: np.ndarray) -> None:
    """WiFo's ``X_test.mat`` of channels (N, T, K, A), which it keeps as (N, T, A, K)."""
    folder.mkdir(parents=True, exist_ok=True)
    values = channel.swapaxes(2, 3)
    if old:
        savemat(folder / "X_test.mat", {"X_val": values, **others}, do_compression=True)
        return
    with h5py.File(folder / "X_test.mat", "w", userblock_size=512) as file:
        file["X_val"] = compound(values)
        for name, other in others.items():
            file[name] = other.T


def write_cost2100(folder: Path, place: str, counts: dict[str, int], *, seed: int = 0) -> dict[str, np.ndarray]:
    """CsiNet's files of one place, and their taps [n, angles, delays]."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    taps = {}
    for split, count in counts.items():
        parts = random.uniform(0, 1, (count, 2, 32, 32))
        savemat(folder / f"DATA_H{split}{place}.mat", {"HT": parts.reshape(count, -1)}, do_compression=True)
        taps[split] = (parts[:, 0] - 0.5) + 1j * (parts[:, 1] - 0.5)
    return taps
