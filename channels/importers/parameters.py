"""Parameters of a set from several sources, each kept with what it comes from, and compared with the array."""

import re
from collections.abc import Mapping
from typing import Any

from channels.errors import UserError
from channels.importers.axes import Axes, mismatch
from channels.importers.found import ASSUMED, Parameter
from channels.importers.options import ImportOptions
from channels.spec import ChannelSpec

SHAPE = "shape"
"""The source of what the array itself says."""

_PLACEHOLDERS: Mapping[str, Any] = {
    "fc_ghz": 3.5,
    "subcarrier_spacing_khz": 30.0,
    "slot_ms": 1.0,
    "scenario": "unknown",
    "los": None,
    "speed_kmh": [0.0, 0.0],
}
"""Stand where nothing is known. Marked as assumed wherever they are shown."""


def gather(*sources: tuple[str, Mapping[str, Any]]) -> dict[str, Parameter]:
    """Parameters of (source, values) pairs, the first pair that has one wins."""
    found: dict[str, Parameter] = {}
    for source, values in sources:
        for key, value in values.items():
            found.setdefault(key, Parameter(value, source))
    return found


def given_for(options: ImportOptions, *names: str) -> tuple[str, dict[str, Any]]:
    """What ``--spec`` says of a set that goes by any of these names, as ``gather`` takes it."""
    return f"--spec {options.given.where}", options.given.of(*names)


def complete(parameters: dict[str, Parameter], scale: tuple[int, int, int]) -> dict[str, Parameter]:
    """With the array's own scale, a linear array where no rows and columns fit, and placeholders for the rest."""
    slots, subcarriers, antennas = scale
    filled = {**gather((SHAPE, {"slots": slots, "subcarriers": subcarriers})), **parameters}
    if not {"rows", "cols"} & parameters.keys():
        filled |= gather((f"{ASSUMED} (a linear array)", {"rows": 1, "cols": antennas}))
    elif "rows" not in parameters or "cols" not in parameters:
        known, lacking = ("rows", "cols") if "rows" in parameters else ("cols", "rows")
        count = parameters[known].value
        if isinstance(count, int) and count > 0 and antennas % count == 0:
            filled[lacking] = Parameter(antennas // count, SHAPE)
        else:
            filled[lacking] = Parameter(1, ASSUMED)
    for key, value in _PLACEHOLDERS.items():
        filled.setdefault(key, Parameter(value, ASSUMED))
    return filled


def build_spec(
    name: str, parameters: Mapping[str, Parameter], where: str, base: ChannelSpec | None = None
) -> ChannelSpec:
    """A set's specification. base: whose other fields it keeps. Raises UserError for a wrong value by its source."""
    values = {key: parameter.value for key, parameter in parameters.items()}
    sources = {key: parameter.source for key, parameter in parameters.items() if parameter.source != SHAPE}
    return ChannelSpec.from_mapping(
        {**(base.to_mapping() if base else {}), **values, "name": name}, where, sources=sources
    )


def check_scale(
    spec: ChannelSpec,
    shape: tuple[int, ...],
    axes: Axes,
    parameters: Mapping[str, Parameter],
    where: str,
    command: str,
) -> None:
    """Raises UserError where the array's (T, K, A) is not that of the parameters, with the axes that would fit.

    command: that imports the set, to which the message adds an option.
    """
    if axes.scale(shape) == spec.shape:
        return
    differing = ("slots", "subcarriers", "rows", "cols")
    sources = sorted({parameters[key].source for key in differing if key in parameters} - {SHAPE})
    raise mismatch(shape, axes, spec.shape, " and ".join(sources) or "the specification", where, command)


def assumed_fields(parameters: Mapping[str, Parameter]) -> list[str]:
    """Names of the fields for which a placeholder stands."""
    return sorted(key for key, parameter in parameters.items() if parameter.source.startswith(ASSUMED))


def usable_name(*words: str) -> str:
    """A name for a set out of words of any kind, joined by a dash."""
    cleaned = [re.sub(r"[^A-Za-z0-9._-]+", "_", word).strip("._-") for word in words]
    name = "-".join(word for word in cleaned if word)
    return name[:64] or "set"


def refuse_unknown_sets(options: ImportOptions, names: set[str]) -> None:
    """Raises UserError where ``--spec`` names a set that was not found."""
    unknown = [name for name in options.given.sets if name not in names]
    if unknown:
        mend = f"found are {', '.join(sorted(names)[:12])}"
        raise UserError(
            f"it has parameters for a set {unknown[0]!r}, which is not here", where=options.given.where, mend=mend
        )
