"""What all parts of specs share: no unknown keys, no odd numbers, paths as people write them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[int, Field(gt=0)]


def expanded(path: Path) -> Path:
    """The same with the home folder in place of ``~``."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder of {path.parts[0]} is not known; write the whole path") from None


FolderPath = Annotated[Path, AfterValidator(expanded)]
"""A path that a person writes; ``~`` is the home folder."""


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
