"""What a set of channel samples is: carrier, grid, array, scenario and speed."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from channels.errors import UserError

SCENARIOS = ("UMi", "UMa", "RMa", "Indoor")
"""Scenarios that channels can be made for; an imported set may name any other."""

USER_ANTENNAS = ("directional", "omnidirectional")
"""Elements that a user can have when channels are made: that of TR 38.901 (8 dBi, 65 degrees), or no pattern."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelSpec:
    """One set: all its samples are complex [slots T, subcarriers K, antennas A] of these parameters.

    fc_ghz: carrier in GHz. subcarrier_spacing_khz: in kHz. slot_ms: time between slots in ms. rows, cols: planar array
    of the base station, antenna index = col * rows + row. Rows count upwards: for a user below the horizon the phase
    falls from row to row, as in the published sets. scenario: one of SCENARIOS, or any word for an imported set.
    los: line of sight forced on or off; None where it is unknown. speed_kmh: range of the user's speed in km/h.
    user_antenna: one of USER_ANTENNAS; None where it is unknown, and made as directional.
    """

    name: str
    fc_ghz: float
    subcarriers: int
    subcarrier_spacing_khz: float
    slots: int
    slot_ms: float
    rows: int
    cols: int
    scenario: str
    los: bool | None
    speed_kmh: tuple[float, float]
    user_antenna: str | None = None

    def __post_init__(self) -> None:
        """Whole numbers become floats where floats are meant: 30 and 30.0 must have one fingerprint."""
        for field in ("fc_ghz", "subcarrier_spacing_khz", "slot_ms"):
            object.__setattr__(self, field, float(getattr(self, field)))
        low, high = self.speed_kmh
        object.__setattr__(self, "speed_kmh", (float(low), float(high)))

    @property
    def antennas(self) -> int:
        """Elements of the planar array."""
        return self.rows * self.cols

    @property
    def shape(self) -> tuple[int, int, int]:
        """Scale of a sample: (T, K, A)."""
        return self.slots, self.subcarriers, self.antennas

    @classmethod
    def from_mapping(cls, mapping: object, where: str) -> "ChannelSpec":
        """The spec written in a YAML or JSON file.

        Raises UserError, naming ``where`` and the field: unknown or missing key, wrong type, value out of range.
        """
        entries = _entries(mapping, where)
        name = _text(entries, "name", where)
        if not _NAME.fullmatch(name):
            raise UserError(
                f"name {name!r} cannot be a folder", where=where, mend="use letters, digits, dot, dash and underscore"
            )
        here = f"{where} ({name})"
        return cls(
            name=name,
            fc_ghz=_positive(entries, "fc_ghz", here),
            subcarriers=_count(entries, "subcarriers", here),
            subcarrier_spacing_khz=_positive(entries, "subcarrier_spacing_khz", here),
            slots=_count(entries, "slots", here),
            slot_ms=_positive(entries, "slot_ms", here),
            rows=_count(entries, "rows", here),
            cols=_count(entries, "cols", here),
            scenario=_text(entries, "scenario", here),
            los=_flag(entries, "los", here),
            speed_kmh=_range(entries, "speed_kmh", here),
            user_antenna=_user_antenna(entries, here),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for YAML or JSON; ``from_mapping`` gives the same spec back. What is unknown is left out."""
        values = asdict(self) | {"speed_kmh": list(self.speed_kmh)}
        if self.user_antenna is None:
            del values["user_antenna"]
        return values


def _entries(mapping: object, where: str) -> Mapping[str, Any]:
    if not isinstance(mapping, Mapping):
        raise UserError(f"a mapping of channel parameters is needed, not {type(mapping).__name__}", where=where)
    known = [field.name for field in fields(ChannelSpec)]
    for key in mapping:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise UserError(f"unknown key {key!r}", where=where, mend=f"the nearest known key is {nearest!r}")
    required = [field.name for field in fields(ChannelSpec) if field.default is MISSING]
    for key in required:
        if key not in mapping:
            raise UserError(f"key {key!r} is missing", where=where, mend=f"a set has the keys {', '.join(required)}")
    return mapping


def _text(entries: Mapping[str, Any], key: str, where: str) -> str:
    value = entries[key]
    if not isinstance(value, str) or not value:
        raise UserError(f"{key} must be a word, not {value!r}", where=where)
    return value


def _count(entries: Mapping[str, Any], key: str, where: str) -> int:
    value = entries[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{key} must be a whole number of at least 1, not {value!r}", where=where)
    return value


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _positive(entries: Mapping[str, Any], key: str, where: str) -> float:
    value = _number(entries[key])
    if value is None or value <= 0:
        raise UserError(f"{key} must be a number above 0, not {entries[key]!r}", where=where)
    return value


def _flag(entries: Mapping[str, Any], key: str, where: str) -> bool | None:
    value = entries[key]
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{key} must be true, false or null, not {value!r}", where=where)
    return value


def _user_antenna(entries: Mapping[str, Any], where: str) -> str | None:
    value = entries.get("user_antenna")
    if value is not None and value not in USER_ANTENNAS:
        raise UserError(f"user_antenna must be {' or '.join(USER_ANTENNAS)}, not {value!r}", where=where)
    return value


def _range(entries: Mapping[str, Any], key: str, where: str) -> tuple[float, float]:
    value = entries[key]
    ends = [_number(end) for end in value] if isinstance(value, list | tuple) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not 0 <= ends[0] <= ends[1]:
        raise UserError(f"{key} must be [lowest, highest] with 0 <= lowest <= highest, not {value!r}", where=where)
    return ends[0], ends[1]
