"""Reading specs: YAML mappings, overrides of their fields, and validation whose first error is one line."""

import difflib
import itertools
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from channels.errors import UserError

SPEC_CHARACTERS = 2**16
SPEC_NESTING = 64
"""Most characters and open brackets of a spec; PyYAML's time grows with the square of both."""
NUMBER_BITS = 64

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping; errors name the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            "no such file", where=str(path), mend="give the path of a YAML spec, e.g. jobs/demo.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend="give a readable text file") from None
    mapping = parse_yaml(text, "this", str(path), "correct the syntax or the value")
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise UserError("the top level is not a mapping of names", where=str(path), mend="write `name: ...` lines")
    return mapping


def parse_yaml(text: str, what: str, where: str, mend: str) -> Any:
    """The value of a YAML text of the size of a spec. what, where, mend: of the error for a text that is none.

    Raises:
        UserError: it is no YAML, or larger or deeper than a spec ever is.
    """
    line = ""
    try:
        _check_size(text)
        value = yaml.safe_load(text)
        _check_values(value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "broken"
    except RecursionError:
        reason = "it nests too deep"
    # PyYAML passes on what its constructors raise, e.g. for the date 2001-99-99.
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
    else:
        return value
    raise UserError(f"{what} is not YAML{line}: {reason}", where=where, mend=mend)


def _check_size(text: str) -> None:
    if len(text) > SPEC_CHARACTERS:
        raise ValueError(f"it is longer than {SPEC_CHARACTERS} characters")
    opened = itertools.accumulate((character in "[{") - (character in "]}") for character in text)
    if max(opened, default=0) > SPEC_NESTING:
        raise ValueError("it nests too deep")


def _check_values(value: Any) -> None:
    """Aliases can make a short text endless; numbers and characters must survive being written as JSON."""
    pending, count = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        count += 1
        if depth > SPEC_NESTING:
            raise ValueError("it nests too deep")
        if count > SPEC_CHARACTERS:
            raise ValueError(f"it holds more than {SPEC_CHARACTERS} values")
        if isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple | set):
            pending += [(part, depth + 1) for part in item]
        elif isinstance(item, int) and item.bit_length() > NUMBER_BITS:
            raise ValueError(f"a number has more than {NUMBER_BITS} bits")
        elif isinstance(item, str):
            item.encode()


def apply_override(mapping: dict[str, Any], override: str) -> None:
    """Put ``a.b=c`` into a nested mapping; c is read as YAML."""
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts) or len(parts) > SPEC_NESTING:
        raise UserError(
            f"override {reprlib.repr(override)} is not of the form a.b=c", where="--set",
            mend="e.g. --set train.lr=4e-4",
        )  # fmt: skip
    value = parse_yaml(text, f"value of {reprlib.repr(override)}", "--set", "quote it")
    node = mapping
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"{part!r} of {key!r} is not a section", where="--set", mend="check the name")
        node = child
    node[parts[-1]] = value


def validate(model: type[Model], mapping: Mapping[str, Any], where: str) -> Model:
    """A pydantic model of a mapping, its first error as one line."""
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise _first_error(model, mapping, where, error) from None


def _first_error(model: type[BaseModel], mapping: Mapping[str, Any], where: str, error: ValidationError) -> UserError:
    detail = error.errors(include_url=False)[0]
    path = [str(part) for part in detail["loc"]]
    field = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        mend = f"did you mean {nearest[0]!r}?" if nearest else f"known here: {', '.join(sorted(known))}"
        return UserError(f"unknown key {field!r}", where=where, mend=mend)
    if detail["type"] == "missing":
        return UserError(f"{field!r} is missing", where=where, mend="add it")
    message = detail["msg"].removeprefix("Value error, ")
    value = "" if isinstance(detail["input"], dict | BaseModel) else f" = {reprlib.repr(detail['input'])}"
    return UserError(f"{field or 'spec'}{value}: {message}", where=where, mend="correct the value")


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Field names of the section that a path leads to."""
    current = model
    for part in path:
        field = current.model_fields.get(part)
        annotation = field.annotation if field else None
        arguments = [annotation, *getattr(annotation, "__args__", ())]
        nested = [kind for kind in arguments if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if nested:
            current = nested[0]
    return list(current.model_fields)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as ``key: old -> new``."""
    left, right = flatten(old), flatten(new)
    names = sorted(set(left) | set(right))
    return [f"{name}: {left.get(name)!r} -> {right.get(name)!r}" for name in names if left.get(name) != right.get(name)]
