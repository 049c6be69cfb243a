"""Single numbers beside an array that say what it is: carrier, grid and array, by the names in use."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from channels.errors import UserError
from channels.importers.files.arrays import StoredArray

CARRIER_HZ, SPACING_HZ = 1e6, 1e3
"""From here on a carrier or a spacing is in Hz; a smaller number could be of any unit and is not taken."""


def _hertz(field: str, least: float, scale: float) -> Callable[[list[float]], dict[str, Any]]:
    return lambda values: {field: values[0] / scale} if len(values) == 1 and values[0] >= least else {}


def _number(field: str, scale: float = 1.0) -> Callable[[list[float]], dict[str, Any]]:
    return lambda values: {field: values[0] * scale} if len(values) == 1 else {}


def _whole(*fields: str) -> Callable[[list[float]], dict[str, Any]]:
    def take(values: list[float]) -> dict[str, Any]:
        if len(values) != len(fields) or not all(value.is_integer() for value in values):
            return {}
        return {field: int(value) for field, value in zip(fields, values, strict=True)}

    return take


_NAMES: Mapping[str, Callable[[list[float]], dict[str, Any]]] = {
    "fc": _hertz("fc_ghz", CARRIER_HZ, 1e9),
    "carrier_frequency": _hertz("fc_ghz", CARRIER_HZ, 1e9),
    "center_frequency": _hertz("fc_ghz", CARRIER_HZ, 1e9),
    "fc_ghz": _number("fc_ghz"),
    "delta_f": _hertz("subcarrier_spacing_khz", SPACING_HZ, 1e3),
    "subcarrier_spacing": _hertz("subcarrier_spacing_khz", SPACING_HZ, 1e3),
    "scs": _hertz("subcarrier_spacing_khz", SPACING_HZ, 1e3),
    "subcarrier_spacing_khz": _number("subcarrier_spacing_khz"),
    "delta_t": _number("slot_ms", 1e3),
    "slot_ms": _number("slot_ms"),
    "upa": _whole("rows", "cols"),
    "rows": _whole("rows"),
    "cols": _whole("cols"),
}


def check_hertz(name: str, value: float, least: float, where: str) -> float:
    """The value. Raises UserError for one that cannot be in Hz: below ``least``, as one in GHz or kHz is."""
    if value < least:
        mend = f"write it in Hz: {name} is {least:g} or more there"
        raise UserError(f"{name} {value:g} is no frequency in Hz", where=where, mend=mend)
    return value


def scalar_parameters(arrays: Sequence[StoredArray]) -> tuple[dict[str, Any], list[StoredArray]]:
    """Parameters, in the units of ChannelSpec, among the arrays of a file, and the arrays that hold them."""
    found: dict[str, Any] = {}
    used: list[StoredArray] = []
    for array in arrays:
        take = _NAMES.get(array.key.rpartition("/")[2].lower())
        if take is None or array.dtype.kind not in "iuf" or int(np.prod(array.shape, dtype=object)) not in (1, 2):
            continue
        with array.opened() as slices:
            values = slices(0, 0, array.shape[0]) if array.shape else slices(0, 0, 1)
        taken = take([float(value) for value in np.ravel(values)])
        if taken and all(np.isfinite(value) for value in taken.values()):
            found |= taken
            used.append(array)
    return found, used
