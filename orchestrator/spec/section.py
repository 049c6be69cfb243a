"""What all parts of specs share: no unknown keys, no odd numbers, paths as people write them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[int, Field(gt=0)]


def expanded(path: Path) -> Path:
    """The same with the home folder in place of ``~``."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder of {path.parts[0]} is not known; write the whole path") from None


def _written(path: Any) -> Any:
    """Before it is a path: of an empty text ``Path`` makes the working directory."""
    if isinstance(path, str) and not path.strip():
        raise ValueError("the path is empty; write . for the working directory")
    return path


FolderPath = Annotated[Path, BeforeValidator(_written), AfterValidator(expanded)]
"""A path that a person writes; ``~`` is the home folder."""

Decibels = Annotated[float, Field(ge=-100, le=300)]
"""A ratio of powers in dB that a float32 holds, and its inverse too."""


def refuse_twice(names: object) -> None:
    """Raises ValueError where one of several names stands twice; a number in their place says how many."""
    twice = [name for name in names if names.count(name) > 1] if isinstance(names, tuple) else []
    if twice:
        raise ValueError(f"{twice[0]} stands twice; name each once")


class Section(BaseModel):
    """A part of a spec: immutable, every key known, numbers finite, and true and false no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        parts = value if isinstance(value, list | tuple) else [value]
        takes_switch = "bool" in str(cls.model_fields[str(info.field_name)].annotation)
        if not takes_switch and any(isinstance(part, bool) for part in parts):
            raise ValueError("true and false are no value for this field")
        return value
