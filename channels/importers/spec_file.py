"""The file behind ``--spec``: parameters that a source lacks, for all of its sets and for single ones."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from channels.errors import UserError

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
_MOST_CHARACTERS = 2**16
_MOST_NESTING = 16


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
    mapping = _mapping(path)
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


def _mapping(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such file", where=str(path), mend="give a YAML file, for example: fc_ghz: 3.5") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend="give a YAML file") from None
    nesting = itertools.accumulate((character in "[{") - (character in "]}") for character in text)
    if len(text) > _MOST_CHARACTERS or max(nesting, default=0) > _MOST_NESTING:
        raise UserError("too large or too deep for parameters of sets", where=str(path), mend="give a few fields")
    try:
        mapping = yaml.load(text, Loader=_OnceLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "broken"
        raise UserError(f"not YAML{line}: {problem}", where=str(path), mend="correct it") from None
    # PyYAML hands through what its constructors stumble over, e.g. the date 2001-99-99.
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"not YAML: {str(error)[:200]}", where=str(path), mend="correct the value") from None
    if not isinstance(mapping, dict):
        raise UserError("no fields are here", where=str(path), mend="write lines such as fc_ghz: 3.5")
    return mapping


class _OnceLoader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice: the last one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises yaml.YAMLError for a repeated key."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{str(twice)[:80]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
