"""Import of the published HeterCSI sets: MATLAB v7.3 files in a folder a set.

A source is ``<root>/{pretrain,zeroshot}/<set>/{train,val,test}_data.mat`` with an optional ``config.mat`` beside them,
one of the two role folders, or one set folder alone. ``H_<split>`` is complex single (N, T, K, A) in MATLAB, which HDF5
shows with its axes reversed as a compound of ``real`` and ``imag``; ``speed_<split>`` is (N, 1) in km/h and becomes a
label.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from channels.errors import UserError
from channels.manifest import ROLES, SPLITS
from channels.mat5 import read_variables
from channels.presets import load_preset
from channels.shards import Samples
from channels.spec import ChannelSpec

SLICE_SAMPLES = 128
"""Samples read at once: the published files are up to 3.5 GB."""

SAMPLE_BYTES = 2**28
"""Most of one sample: a file of a few bytes can claim any shape. The largest published one has 0.4 MB."""

CONFIG_BYTES = 2**20
_CONFIG_FIELDS = ("fc", "K", "delta_f", "T", "delta_t", "UPA", "scenario")

_SCENARIO = re.compile(r"3GPP_38\.901_(?P<scenario>[A-Za-z0-9]+)_(?P<los>N?LOS)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceSet:
    """One set found in a source. files: path of each split's file; counts: its samples."""

    spec: ChannelSpec
    role: str
    files: Mapping[str, Path]
    counts: Mapping[str, int]

    def samples(self, split: str) -> Iterator[Samples]:
        """The samples of one split in slices. Raises UserError where the file cannot be read."""
        with _opened(self.files[split]) as file:
            channel, speed = file[f"H_{split}"], file.get(f"speed_{split}")
            for start in range(0, self.counts[split], SLICE_SAMPLES):
                rows = slice(start, start + SLICE_SAMPLES)
                parts = channel[..., rows]
                values = np.empty(parts.shape[::-1], np.complex64)
                values.real, values.imag = parts["real"].T, parts["imag"].T
                labels = {} if speed is None else {"speed_kmh": np.asarray(speed[0, rows], np.float32)}
                yield Samples(values, labels)


def find_sets(source: Path) -> list[SourceSet]:
    """All sets of a source, checked against their files' headers; no channel is read.

    Raises UserError for a source without sets, an unreadable file, or a config.mat that disagrees with the preset or
    with the files.
    """
    if not source.is_dir():
        raise UserError("no such folder", where=str(source))
    folders = _set_folders(source)
    if not folders:
        mend = "expected <source>/{pretrain,zeroshot}/<set>/{train,val,test}_data.mat or one such set folder"
        raise UserError("no HeterCSI set is here", where=str(source), mend=mend)
    return [_source_set(folder, role) for folder, role in folders]


def _set_folders(source: Path) -> list[tuple[Path, str | None]]:
    """Folders that hold data files, in natural order of their names, with the role that their parent's name gives."""
    if _data_files(source):
        role = source.absolute().parent.name
        return [(source, role if role in ROLES else None)]
    parents = [source] if source.name in ROLES else [source / role for role in ROLES]
    found: list[tuple[Path, str | None]] = []
    for parent in (parent for parent in parents if parent.is_dir()):
        names = sorted((entry for entry in parent.iterdir() if entry.is_dir()), key=_natural)
        found += [(folder, parent.name) for folder in names if _data_files(folder)]
    return found


def _natural(folder: Path) -> list[tuple[int, str]]:
    return [(int(digits or 0), word) for word, digits in re.findall(r"(\D*)(\d*)", folder.name)]


def _data_files(folder: Path) -> dict[str, Path]:
    files = {split: folder / f"{split}_data.mat" for split in SPLITS}
    return {split: file for split, file in files.items() if file.is_file()}


def _source_set(folder: Path, role: str | None) -> SourceSet:
    name = folder.absolute().name
    files = _data_files(folder)
    spec = _spec(folder, name)
    counts = {split: _count(file, split, spec) for split, file in files.items()}
    return SourceSet(spec, role or ("zeroshot" if set(files) == {"test"} else "pretrain"), files, counts)


def _spec(folder: Path, name: str) -> ChannelSpec:
    """From config.mat, and from the preset what config.mat lacks (the speed); both must agree."""
    preset = load_preset("hetercsi")
    published = next((spec for spec in (*preset.pretrain, *preset.zeroshot) if spec.name == name), None)
    file = folder / "config.mat"
    if not file.is_file():
        if published is None:
            mend = "add config.mat, or name the folder as a published set (P01-P40, D1-D12)"
            raise UserError("nothing says what the set's parameters are", where=str(folder), mend=mend)
        return published
    config = _config(file) | {"name": name}
    if published is None:
        return ChannelSpec.from_mapping(config | {"speed_kmh": _speeds(folder)}, str(file))
    known = published.to_mapping()
    spec = ChannelSpec.from_mapping({key: config.get(key, value) for key, value in known.items()}, str(file))
    for key, value in spec.to_mapping().items():
        if value != known[key] and not (isinstance(value, float) and np.isclose(value, known[key], rtol=1e-6)):
            what = f"{key} is {value} here, but {known[key]} in the published set {name}"
            raise UserError(what, where=str(file), mend="rename the folder or mend its config.mat")
    return published


def _config(file: Path) -> dict[str, Any]:
    """config.mat (MATLAB v5; Hz and seconds) in the units of ChannelSpec."""
    try:
        content = read_variables(file, _CONFIG_FIELDS, CONFIG_BYTES)
        number = {key: float(np.asarray(content[key]).item()) for key in ("fc", "K", "delta_f", "T", "delta_t")}
        rows, cols = (float(size) for size in np.ravel(content["UPA"]))
        scenario = str(content["scenario"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"not a readable config.mat ({error!r})", where=str(file)) from error
    words = _SCENARIO.fullmatch(scenario)
    if words is None:
        what = f"scenario {scenario[:80]!r} is not of the form 3GPP_38.901_<scenario>_<LOS|NLOS>"
        raise UserError(what, where=str(file))
    whole = {"subcarriers": number["K"], "slots": number["T"], "rows": rows, "cols": cols}
    return {
        "fc_ghz": number["fc"] / 1e9,
        "subcarrier_spacing_khz": number["delta_f"] / 1e3,
        "slot_ms": number["delta_t"] * 1e3,
        "scenario": words["scenario"],
        "los": words["los"].upper() == "LOS",
        **{key: int(value) if value.is_integer() else value for key, value in whole.items()},
    }


def _speeds(folder: Path) -> list[float]:
    """Lowest and highest speed in the files of a set that is not a published one; 0 to 0 where they hold none."""
    speeds = []
    for split, path in _data_files(folder).items():
        with _opened(path) as file:
            if f"speed_{split}" in file:
                speeds.append(np.asarray(file[f"speed_{split}"], np.float64).ravel())
    values = np.concatenate(speeds) if speeds else np.zeros(1)
    return [float(values.min()), float(values.max())]


def _count(path: Path, split: str, spec: ChannelSpec) -> int:
    """Samples in a file, whose layout is checked here."""
    with _opened(path) as file:
        dataset = file.get(f"H_{split}")
        if dataset is None or not hasattr(dataset, "dtype"):
            raise UserError(f"there is no variable H_{split}", where=str(path), mend="is this a HeterCSI file?")
        kinds = [dataset.dtype[name].kind for name in dataset.dtype.names or ()]
        if dataset.dtype.names != ("real", "imag") or kinds != ["f", "f"]:
            raise UserError(f"H_{split} is of type {dataset.dtype}, not complex", where=str(path))
        if len(dataset.shape) != 4 or dataset.shape[:3] != spec.shape[::-1]:
            what = f"H_{split} is of shape {dataset.shape[::-1]} (N, T, K, A), but the set's (T, K, A) is {spec.shape}"
            raise UserError(what, where=str(path))
        if dataset.shape[3] == 0:
            raise UserError(f"H_{split} holds no sample", where=str(path))
        if math.prod(spec.shape) * 8 > SAMPLE_BYTES:
            raise UserError(f"samples of shape {spec.shape} are larger than {SAMPLE_BYTES} bytes", where=str(path))
        speed = file.get(f"speed_{split}")
        if speed is not None and getattr(speed, "shape", None) != (1, dataset.shape[3]):
            raise UserError(f"speed_{split} does not have one value a sample", where=str(path))
        return int(dataset.shape[3])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    # HDF5 finds damage late, and h5py then raises what it is reading at that moment.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        mend = "it must be a complete MATLAB v7.3 (HDF5) file; fetch it again"
        raise UserError(f"cannot be read ({error})", where=str(path), mend=mend) from error
