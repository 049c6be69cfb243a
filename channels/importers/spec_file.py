"""The file behind ``--spec``: parameters that a source lacks, for all of its sets and for single ones."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.yaml_files import read_mapping

FIELDS = (
    "fc_ghz",
    "subcarriers",
    "subcarrier_spacing_khz",
    "slots",
    "slot_ms",
    "rows",
    "cols",
    "scenario",
    "los",
    "speed_kmh",
)
"""Fields of ChannelSpec that may be given."""

SETS = "sets"


@dataclass(frozen=True, slots=True)
class GivenParameters:
    """Parameters of a ``--spec`` file. where: its path. common: for all sets. sets: for single ones, by their name."""

    where: str = "--spec"
    common: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, *names: str) -> dict[str, Any]:
        """What is given for a set that goes by any of these names."""
        own = next((self.sets[name] for name in names if name in self.sets), {})
        return {**self.common, **own}


def read_spec_file(path: Path) -> GivenParameters:
    """The parameters of a YAML file. Raises UserError, naming the field, for anything but fields of a set."""
    mapping = read_mapping(path, "fc_ghz: 3.5")
    sets = mapping.pop(SETS, {})
    _check_fields(mapping, str(path))
    if not isinstance(sets, dict):
        raise UserError(f"{SETS} must map names of sets to their parameters", where=str(path))
    for name, fields in sets.items():
        if not isinstance(name, str) or not isinstance(fields, dict):
            raise UserError(f"{SETS} must map names of sets to their parameters, not {name!r}", where=str(path))
        _check_fields(fields, f"{path}, {SETS}.{name}")
    return GivenParameters(str(path), mapping, sets)


def _check_fields(fields: Mapping[Any, Any], where: str) -> None:
    for name in fields:
        if name not in FIELDS:
            nearest = difflib.get_close_matches(str(name), FIELDS, n=1, cutoff=0.5)
            mend = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UserError(
                f"unknown field {str(name)[:80]!r}", where=where, mend=f"{mend}There are {', '.join(FIELDS)}"
            )
