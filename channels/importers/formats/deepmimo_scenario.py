"""The files of a DeepMIMO v4 scenario: ``params.json`` and a file for each quantity of a pair."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError, reason_of
from channels.files import is_file, is_folder, parse_json
from channels.importers.files.mat5 import read_variables
from channels.importers.scalars import CARRIER_HZ, check_hertz

PARAMETERS = "params.json"
QUANTITIES = ("aoa_az", "aoa_el", "aod_az", "aod_el", "delay", "inter", "phase", "power", "rx_pos", "tx_pos")
VELOCITY, DOPPLER = "rx_vel", "doppler"
"""Not in every scenario: velocities of the users, m/s [users, 3], or Doppler shifts, Hz [users, paths]."""

TRANSMITTERS = 1000
"""Most of one set: their numbers have three digits in the names of files."""

QUANTITY_BYTES = 2**34
"""Most of one quantity: a file of a few bytes can claim any shape."""

_PER_PATH = tuple(name for name in QUANTITIES if not name.endswith("_pos"))
_FORMATS = (".npz", ".mat")
_QUANTITY = re.compile(rf"({'|'.join(QUANTITIES)})_t\d{{3}}_tx\d{{3}}_r\d{{3}}")
_FETCH = "fetch the scenario again"


@dataclass(frozen=True, slots=True)
class Scenario:
    """folder: of the files. frequency_hz: the carrier. pairs: (transmitter set, transmitter, receiver set)."""

    folder: Path
    frequency_hz: float
    pairs: tuple[tuple[int, int, int], ...]


def is_quantity(file: Path) -> bool:
    """Whether a file is called as one of a scenario's."""
    return file.suffix in _FORMATS and bool(_QUANTITY.fullmatch(file.stem))


def read_scenario(folder: Path) -> Scenario:
    """Raises UserError for a folder that is no static DeepMIMO v4 scenario."""
    file = folder / PARAMETERS
    if not is_folder(folder):
        raise UserError("no such folder", where=str(folder))
    if not is_file(file):
        raise UserError("a file is missing", where=str(file), mend="a DeepMIMO v4 scenario folder has one")
    try:
        parameters: dict[str, Any] = parse_json(file.read_bytes())
        scenes = int(parameters["scene"]["num_scenes"])
        frequency = float(parameters["rt_params"]["frequency"])
    except (ValueError, LookupError, TypeError, OverflowError, OSError) as error:
        raise _not_parameters(file, error) from error
    if scenes != 1:
        raise UserError(f"{scenes} scenes; only static scenarios can be imported", where=str(file))
    check_hertz("frequency", frequency, CARRIER_HZ, str(file))
    return Scenario(folder, frequency, tuple(_pairs(parameters, file)))


def _not_parameters(file: Path, error: Exception) -> UserError:
    what = f"not the parameters of a DeepMIMO v4 scenario ({reason_of(error)})"
    return UserError(what, where=str(file), mend=_FETCH)


def _pairs(parameters: Mapping[str, Any], file: Path) -> list[tuple[int, int, int]]:
    """Every pair; transmitters that also receive are no users."""
    try:
        sets = [parameters["txrx_sets"][key] for key in sorted(parameters["txrx_sets"])]
        if any(not 0 <= one["num_points"] <= TRANSMITTERS for one in sets if one["is_tx"]):
            raise ValueError(f"not between 0 and {TRANSMITTERS} transmitters in a set")
        senders = [(int(one["id"]), index) for one in sets if one["is_tx"] for index in range(int(one["num_points"]))]
        receivers = [int(one["id"]) for one in sets if one["is_rx"] and not one["is_tx"]]
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise _not_parameters(file, error) from error
    return [(sender, index, receiver) for sender, index in senders for receiver in receivers]


def read_quantities(folder: Path, pair: tuple[int, int, int]) -> dict[str, NDArray[Any]]:
    """All quantities of a pair, those that not every scenario has where they are there, of matching shapes."""
    quantities = {name: read_quantity(folder, name, pair) for name in QUANTITIES}
    users, paths = quantities["rx_pos"].shape[0], quantities["aoa_az"].shape[-1]
    expected = {"rx_pos": (users, 3), "tx_pos": (1, 3), **dict.fromkeys(_PER_PATH, (users, paths))}
    expected |= {VELOCITY: (users, 3), DOPPLER: (users, paths)}
    for name in (VELOCITY, DOPPLER):
        if _quantity_file(folder, name, pair) is not None:
            quantities[name] = read_quantity(folder, name, pair)
    for name, values in quantities.items():
        if values.shape != expected[name] or values.dtype.kind not in "fiu":
            what = f"{name} is of shape {values.shape} and type {values.dtype}, not numbers of shape {expected[name]}"
            raise UserError(what, where=str(folder), mend=_FETCH)
    return quantities


def quantity_stem(folder: Path, name: str, pair: tuple[int, int, int]) -> Path:
    """Path of a quantity's file without its suffix."""
    sender, index, receiver = pair
    return folder / f"{name}_t{sender:03}_tx{index:03}_r{receiver:03}"


def read_quantity(folder: Path, name: str, pair: tuple[int, int, int]) -> NDArray[Any]:
    """The array of one file, read without pickle: a scenario is somebody else's data."""
    file = _quantity_file(folder, name, pair)
    if file is None:
        where = str(quantity_stem(folder, name, pair).with_suffix(_FORMATS[0]))
        raise UserError("a file is missing", where=where, mend=_FETCH)
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                return np.atleast_2d(content[name])
        return np.atleast_2d(np.asarray(read_variables(file, [name], QUANTITY_BYTES)[name]))
    # numpy and zipfile raise whatever their parsers stumble over on a broken file.
    except Exception as error:
        raise UserError(f"cannot be read ({error})", where=str(file), mend=_FETCH) from error


def _quantity_file(folder: Path, name: str, pair: tuple[int, int, int]) -> Path | None:
    stem = quantity_stem(folder, name, pair)
    return next((found for found in (stem.with_suffix(end) for end in _FORMATS) if is_file(found)), None)
