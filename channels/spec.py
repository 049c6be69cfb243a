"""What a set of channel samples is: carrier, grid, array, scenario and speed."""

import difflib
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, TypeVar

from channels.errors import UserError

SCENARIOS = ("UMi", "UMa", "RMa", "Indoor")
"""Scenarios that channels can be made for; an imported set may name any other."""

USER_ANTENNAS = ("directional", "omnidirectional")
"""Elements that a user can have when channels are made: that of TR 38.901 (8 dBi, 65 degrees), or no pattern."""

_EXAMPLES = {
    "fc_ghz": "3.5",
    "subcarriers": "32",
    "subcarrier_spacing_khz": "30",
    "slots": "24",
    "slot_ms": "0.5",
    "rows": "1",
    "cols": "8",
    "scenario": "UMi",
    "los": "true",
    "speed_kmh": "[3, 50]",
    "user_antenna": USER_ANTENNAS[0],
}
_Value = TypeVar("_Value")
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
    def from_mapping(
        cls, mapping: object, where: str, *, sources: Mapping[str, str] = MappingProxyType({}), mend: str | None = None
    ) -> "ChannelSpec":
        """The spec written in a YAML or JSON file.

        sources: what else than ``where`` says what a field is. mend: of a wrong value; an example of it otherwise.
        Raises UserError, naming ``where`` and the field: unknown or missing key, wrong type, value out of range.
        """
        entries = _entries(mapping, where)
        name = entries["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                f"name {reprlib.repr(name)} cannot be a folder",
                where=where,
                mend=mend or "use letters, digits, dot, dash and underscore, at most 64",
            )

        def take(key: str, read: Callable[[Any, str], _Value]) -> _Value:
            try:
                return read(entries.get(key), key)
            except ValueError as error:
                source = f", {sources[key]}" if key in sources else ""
                what = f"{error}, not {reprlib.repr(entries[key])}"
                example = f"for example {key}: {_EXAMPLES[key]}"
                raise UserError(what, where=f"{where}{source} ({name})", mend=mend or example) from None

        return cls(
            name=name,
            fc_ghz=take("fc_ghz", _positive),
            subcarriers=take("subcarriers", _count),
            subcarrier_spacing_khz=take("subcarrier_spacing_khz", _positive),
            slots=take("slots", _count),
            slot_ms=take("slot_ms", _positive),
            rows=take("rows", _count),
            cols=take("cols", _count),
            scenario=take("scenario", _text),
            los=take("los", _flag),
            speed_kmh=take("speed_kmh", _range),
            user_antenna=take("user_antenna", _user_antenna),
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


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a word")
    return value


def _count(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} must be a whole number of at least 1")
    return value


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _positive(value: Any, key: str) -> float:
    number = _number(value)
    if number is None or number <= 0:
        raise ValueError(f"{key} must be a number above 0")
    return number


def _flag(value: Any, key: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key} must be true, false or null")
    return value


def _user_antenna(value: Any, key: str) -> str | None:
    if value is not None and value not in USER_ANTENNAS:
        raise ValueError(f"{key} must be {' or '.join(USER_ANTENNAS)}")
    return str(value) if value is not None else None


def _range(value: Any, key: str) -> tuple[float, float]:
    ends = [_number(end) for end in value] if isinstance(value, list | tuple) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{key} must be [lowest, highest] with 0 <= lowest <= highest")
    return ends[0], ends[1]
