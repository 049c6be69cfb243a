"""COST2100 channels as CsiNet publishes them: ``HT`` (N, 2048) in [0, 1], delays and angles instead of subcarriers.

A row is [2, 32, 32]: real and imaginary part plus one half, 32 angles, the first 32 delays. With x = HT - 0.5, complex
over (angle m, delay d), and K subcarriers, a sample is the two-dimensional DFT

    H[k, a] = 1 / sqrt(32) * sum_m sum_d x[m, d] exp(-2 pi i (m a / 32 + d k / K)),   k = 0 ... K - 1, a = 0 ... 31,

the delays padded with zeros to K, as CsiNet's own evaluation pads them before its DFT. The scale is the published one:
the channel's own power is lost in [0, 1].
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.importers.assemble import Draft, found_set
from channels.importers.axes import Axes
from channels.importers.files.arrays import StoredArray
from channels.importers.files.contents import SUFFIXES, contents
from channels.importers.found import Findings, FoundSet, LeftOut
from channels.importers.options import ImportOptions
from channels.importers.pairs import split_in
from channels.importers.parameters import gather, given_for
from channels.importers.reading import SAMPLE_BYTES, ChannelArray
from channels.importers.tree import Tree

NAME = "cost2100"
KEY = "HT"
ANGLES, DELAYS = 32, 32
SUBCARRIERS = 32
"""Made by default: as many as there are delays."""

_FILE = re.compile(r"DATA_H(?P<split>train|val|test)(?P<place>in|out)\.\w+", re.IGNORECASE)
_SPECTRA = re.compile(r"DATA_Htest(?P<frequency>F)(in|out)(_all)?\.\w+", re.IGNORECASE)
_BANDWIDTH_KHZ = 20_000.0
_PLACES = {
    "in": {"fc_ghz": 5.3, "scenario": "COST2100-indoor", "rows": 1, "cols": ANGLES},
    "out": {"fc_ghz": 0.3, "scenario": "COST2100-rural", "rows": 1, "cols": ANGLES},
}
_SHAPES = ((2 * ANGLES * DELAYS,), (2, ANGLES, DELAYS))


def find_cost2100(tree: Tree, options: ImportOptions) -> Findings:
    """The indoor and the outdoor set of each folder. Raises UserError where a file is not as published."""
    spectra = [file for file in tree.files if _SPECTRA.fullmatch(file.name)]
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    for file in tree.files:
        match = _FILE.fullmatch(file.name)
        if match:
            groups.setdefault((file.parent, match["place"].lower()), {})[match["split"].lower()] = file
        elif file not in spectra and _holds_taps(file, options):
            split, place = split_in(file.stem)
            groups.setdefault((file.parent, place or file.parent.name), {})[split or "train"] = file
    sets: list[FoundSet] = []
    left_out = [
        LeftOut(tree.relative(file), "the test samples over frequency; HT has them already") for file in spectra
    ]
    for (folder, place), splits in groups.items():
        found, passed = _found(folder, place, splits, options)
        sets.append(found)
        left_out += [LeftOut(f"{tree.relative(file)}: {key}", why) for file, key, why in passed]
    files = [file for splits in groups.values() for file in splits.values()]
    return Findings(tuple(sets), tuple(left_out), frozenset({*files, *spectra}))


def _holds_taps(file: Path, options: ImportOptions) -> bool:
    """Whether a file of another name has an array HT of the published shape, or any, where this format is asked for."""
    if file.suffix.lower() not in SUFFIXES:
        return False
    if options.format == NAME:
        return True
    try:
        arrays = contents(file).arrays
    # Whatever it is, it is not this: another reader says what is wrong with it.
    except UserError:
        return False
    return any(array.key == KEY and array.shape[1:] in _SHAPES and not array.is_complex for array in arrays)


def _found(
    folder: Path, place: str, files: dict[str, Path], options: ImportOptions
) -> tuple[FoundSet, list[tuple[Path, str, str]]]:
    name = f"COST2100-{place}" if place in _PLACES else place
    given = given_for(options, name)
    subcarriers = options.subcarriers or given[1].get("subcarriers", SUBCARRIERS)
    if not isinstance(subcarriers, int) or subcarriers < DELAYS:
        what = f"{subcarriers} subcarriers cannot hold {DELAYS} delays"
        raise UserError(what, where="--subcarriers", mend=f"take {DELAYS} or more")
    made_bytes = 8 * subcarriers * ANGLES
    if made_bytes > SAMPLE_BYTES:
        what = f"a sample of {subcarriers} subcarriers is larger than {SAMPLE_BYTES} bytes"
        raise UserError(what, where="--subcarriers", mend="ask for fewer")
    arrays: dict[str, ChannelArray] = {}
    passed: list[tuple[Path, str, str]] = []
    for split, file in files.items():
        held = contents(file)
        taps = _taps(held.arrays, file, options)
        axes = Axes(("n", "k") if len(taps.shape) == 2 else ("n", "1", "a", "k"))
        arrays[split] = ChannelArray(taps, axes, {}, to_subcarriers(subcarriers, str(file)), made_bytes)
        passed += [(file, key, why) for key, why in held.passed]
        passed += [(file, array.key, "not the taps") for array in held.arrays if array is not taps]
    parameters = gather(
        given,
        ("--subcarriers" if options.subcarriers else f"one a delay ({DELAYS})", {"subcarriers": subcarriers}),
        (f"{_BANDWIDTH_KHZ / 1e3:g} MHz / subcarriers", {"subcarrier_spacing_khz": _BANDWIDTH_KHZ / subcarriers}),
        ("published (CsiNet)", _PLACES.get(place, {})),
    )
    draft = Draft(
        reader=NAME,
        names=(name, f"{folder.name}-{name}"),
        path=f"DATA_H*{place}" if place in _PLACES else place,
        role=options.role or ("pretrain" if "train" in files else "zeroshot"),
        kind=held.kind,
        arrays=arrays,
        parameters=parameters,
        origin={"subcarriers": subcarriers, "transform": "2-D DFT of HT - 0.5"},
        notes=(f"delays and angles to {subcarriers} subcarriers and {ANGLES} antennas; see docs/data.md",),
        scale=(1, subcarriers, ANGLES),
    )
    return found_set(draft, options, folder), passed


def _taps(arrays: tuple[StoredArray, ...], file: Path, options: ImportOptions) -> StoredArray:
    fitting = [array for array in arrays if array.shape[1:] in _SHAPES and not array.is_complex]
    wanted = options.key or KEY
    found = next((array for array in fitting if array.key == wanted), None)
    if found is None and len(fitting) == 1 and not options.key:
        found = fitting[0]
    if found is None:
        listed = ", ".join(array.text for array in arrays) or "no array"
        what = f"no array {wanted} of real numbers of shape (N, {2 * ANGLES * DELAYS}) or (N, 2, {ANGLES}, {DELAYS})"
        raise UserError(what, where=str(file), mend=f"it holds {listed}")
    return found


def to_subcarriers(subcarriers: int, where: str) -> Callable[[NDArray[Any]], NDArray[np.complex64]]:
    """The transform of this module: rows [n, 2048] or [n, 2, 32, 32] to complex64 [n, 1, K, 32].

    It raises UserError, naming ``where``, for values out of [0, 1].
    """

    def convert(rows: NDArray[Any]) -> NDArray[np.complex64]:
        # A sample with any other value is named, or left out, like those of every format.
        finite = rows[np.isfinite(rows)]
        if finite.size and not (finite.min() >= 0 and finite.max() <= 1):
            what = f"values from {finite.min():g} to {finite.max():g}, but {KEY} lies in [0, 1]"
            raise UserError(what, where=where, mend="is this another array? Name the right one with --key")
        parts = rows.reshape(len(rows), 2, ANGLES, DELAYS).astype(np.float32) - np.float32(0.5)
        taps = parts[:, 0] + 1j * parts[:, 1]
        spectrum = np.fft.fft(np.fft.fft(taps, subcarriers, axis=2), axis=1, norm="ortho")
        return np.ascontiguousarray(spectrum.swapaxes(1, 2)[:, None], np.complex64)

    return convert
