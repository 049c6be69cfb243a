"""Model options, as a job file gives them, checked against the fields of a specification's dataclass."""

import difflib
import types
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from channels.errors import UserError

Spec = TypeVar("Spec")

MACHINE_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({"wimamba": ("scan",)})
"""By model, options that say how a machine computes a model, not what the model is."""


FOLDER_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({"llm4cp": ("gpt2",)})
"""By model, options that name a folder with weights to begin with; an export holds those weights itself."""

EXPORTED = "in this export"
"""Stands in an export's configuration where such a folder was."""

SCALE_OPTIONS = ("slots", "subcarriers", "antennas")
"""Options of models that are made for one scale (T, K, A); left out they follow from the job's target set."""


def nearest(word: str, known: list[str]) -> str:
    """How to mend an unknown name: the nearest known one, if any is near, and all known ones."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known: {', '.join(known)}"


def portable_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options without those of the machine it was trained on: what makes it the same model elsewhere."""
    return {option: value for option, value in options.items() if option not in MACHINE_OPTIONS.get(name, ())}


def exported_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which an export builds its network anywhere: neither a machine's nor folders on it."""
    folders = FOLDER_OPTIONS.get(name, ())
    return {
        option: EXPORTED if option in folders and value is not None else value
        for option, value in portable_options(name, options).items()
    }


def from_options(spec: type[Spec], options: Mapping[str, Any], where: str) -> Spec:
    """The dataclass ``spec`` made from options; each field is an option. Raises UserError naming field and value."""
    hints = get_type_hints(spec)
    known = [field.name for field in fields(spec) if field.init]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise UserError(f"unknown option {name!r}", where=where, mend=nearest(str(name), known))
    return spec(**{name: _convert(value, hints[name], f"{where}.{name}") for name, value in options.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _choice(value, arguments, where)
    if origin in (Union, types.UnionType):
        return _optional(value, arguments, where)
    if origin is tuple:
        return _tuple(value, arguments, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{value!r} is not of type {hint.__name__}", where=where)
    return value


def _choice(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    raise UserError(f"{value!r} is not a choice", where=where, mend=nearest(str(value), [str(c) for c in choices]))


def _optional(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    present = [argument for argument in arguments if argument is not type(None)]
    assert len(present) == 1, "options are unions with None only"
    return None if value is None else _convert(value, present[0], where)


def _tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{value!r} is not a list", where=where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise UserError(f"{value!r} does not have {len(arguments)} entries", where=where)
    pairs = enumerate(zip(value, arguments, strict=True))
    return tuple(_convert(part, hint, f"{where}[{index}]") for index, (part, hint) in pairs)
