"""Specs from mappings: overrides of their fields, and validation whose first error is one line."""

import difflib
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from channels.errors import UserError
from channels.yaml_files import MOST_NESTING, parse_yaml

Model = TypeVar("Model", bound=BaseModel)


def apply_override(mapping: dict[str, Any], override: str) -> None:
    """Put ``a.b=c`` into a nested mapping; c is read as YAML."""
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts) or len(parts) > MOST_NESTING:
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


def validate(model: type[Model], mapping: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Model:
    """A pydantic model of a mapping, its first error as one line.

    where: the file of the mapping. overrides: ``a.b=c`` that were put into it; an error of theirs names them.
    """
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise _first_error(model, mapping, where, overrides, error) from None


def _first_error(
    model: type[BaseModel], mapping: Mapping[str, Any], file: str, overrides: Sequence[str], error: ValidationError
) -> UserError:
    detail, path = _deepest(mapping, error)
    field = ".".join(path)
    where = _origin(field, file, overrides)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        mend = f"did you mean {nearest[0]!r}?" if nearest else f"known here: {', '.join(sorted(known))}"
        return UserError(f"unknown key {field!r}", where=where, mend=mend)
    if detail["type"] == "missing":
        return UserError(f"{field!r} is missing", where=where, mend="add it")
    message = _in_plain_words(detail["msg"])
    value = "" if isinstance(detail["input"], dict | BaseModel) else f" = {reprlib.repr(detail['input'])}"
    mend = "correct the value"
    if detail["type"] in ("list_type", "tuple_type") and isinstance(detail["input"], str):
        mend = f"write [{detail['input']}]"
    return UserError(f"{field or 'spec'}{value}: {message}", where=where, mend=mend)


def _deepest(mapping: Mapping[str, Any], error: ValidationError) -> tuple[ErrorDetails, list[str]]:
    """Of the first field that is wrong the error that says most, and its path.

    A field that may be of several types has an error for each, under the name that pydantic gives to the type: the one
    that got furthest into the value is meant.
    """
    details = error.errors(include_url=False)
    paths = [_written_path(mapping, detail) for detail in details]
    same = [index for index, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    chosen = max(same, key=lambda index: len(paths[index]))
    return details[chosen], paths[chosen]


def _written_path(mapping: Mapping[str, Any], detail: ErrorDetails) -> list[str]:
    """The path of an error as the file is written, without names of types."""
    path: list[str] = []
    value: Any = mapping
    for part in detail["loc"]:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif detail["type"] != "missing" or part != detail["loc"][-1]:
            continue
        path.append(str(part))
    return path


def _in_plain_words(message: str) -> str:
    """A message of pydantic in the words of YAML."""
    text = message.removeprefix("Value error, ").replace(" after validation", "")
    text = re.sub(r"valid dictionary or instance of \w+", "valid mapping", text)
    text = re.sub(r"Input is not a valid path.*", "Input should be a path", text)
    return re.sub(r"\b(t|T)uple\b", lambda found: "List" if found[1] == "T" else "list", text)


def _origin(field: str, file: str, overrides: Sequence[str]) -> str:
    """Where a field comes from: the file, an override, or for a section (empty: all of them) both."""
    keys = [override.partition("=")[0] for override in overrides]
    for key, override in zip(reversed(keys), reversed(overrides), strict=True):
        if f"{field}.".startswith(f"{key}."):
            return f"--set {reprlib.repr(override)[1:-1]}"
    within = [f"--set {key}" for key in keys if not field or key.startswith(f"{field}.")]
    return " with ".join([file, *within])


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
