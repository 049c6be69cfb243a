"""What is compared: encoders, the store, tasks, patch sides, shares of the labels, seeds and the split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from channels.yaml_files import read_mapping
from orchestrator.downstream.task import SHIPPED, Normalisation
from orchestrator.spec.job import NAME_PATTERN
from orchestrator.spec.section import FolderPath, Positive, Section
from orchestrator.spec.yaml_files import apply_override, validate

RAW = "raw"
"""The encoder that is none: features are the channel itself."""
Percent = Annotated[int, Field(ge=1, le=100)]


class SplitSection(Section):
    """Which samples are trained on and which are tested."""

    by: Literal["region", "scenario", "random", "stored"] = "region"
    """``region``: whole parts of a scene. ``scenario``: whole sets, named by ``test``. ``random``: users at random, as
    published: neighbours, whose channels are nearly the same, lie on both sides. ``stored``: as the store has them."""
    test: tuple[str, ...] = ()
    """By scenario: sets, or scenarios of sets, that are tested; all others are trained on."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """By region and at random: least part of the users that is tested."""
    regions: Annotated[int, Field(ge=2, le=1024)] = 16
    """Parts of a scene, of equal numbers of users."""
    position: tuple[str, ...] = ("position_m", "pos", "position")
    """Names of the label that holds positions: the first one that a set has."""

    @model_validator(mode="after")
    def _test_is_named(self) -> "SplitSection":
        if (self.by == "scenario") != bool(self.test):
            raise ValueError("by scenario and the names of test go together; add or remove one of them")
        return self


class MlflowSection(Section):
    """Where the scores go."""

    uri: str | None = None
    """null: a sqlite file in the folder of the runs."""
    experiment: str = "wavetrain"
    enabled: bool = True
    """False: no MLflow is asked."""


class DownstreamSpec(Section):
    """A comparison of encoders."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "downstream"
    store: FolderPath
    sets: tuple[str, ...] | None = None
    """Names; null: all of the store."""
    samples: Positive | None = None
    """At most so many samples of every set, spread evenly over it."""
    encoders: Annotated[dict[Annotated[str, Field(pattern=NAME_PATTERN)], str], Field(min_length=1)]
    """By the name they have in tables: a run, the folder of an export, or ``raw``."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = SHIPPED
    """Shipped ones by name, one's own by the path of a YAML file."""
    patches: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4,)
    shares: Annotated[tuple[Percent, ...], Field(min_length=1)] = (20, 40, 60, 80, 100)
    """Percent of the labels that heads are trained on; a larger share holds a smaller one."""
    seeds: Positive = 3
    """Repetitions; each draws split, share and head."""
    split: SplitSection = SplitSection()
    normalisation: Normalisation | None = None
    """In place of that of every task."""
    gain: tuple[str, ...] = ("gain_db",)
    """Names of a label in dB that restores the scale of channels stored at unit power."""
    unfreeze: Annotated[int, Field(ge=0)] = 0
    """Last layers of the encoder that are trained too, as the published code does in three of four tasks."""
    mlflow: MlflowSection = MlflowSection()

    @field_validator("patches", "shares")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a value stands twice; name each once")
        return tuple(sorted(values))


def make_comparison(mapping: Mapping[str, Any], overrides: Sequence[str], where: str) -> DownstreamSpec:
    """The specification of a mapping with ``a.b=c`` overrides; its store's path becomes whole.

    Raises:
        UserError: unknown key, wrong type or value.
    """
    fields = dict(mapping)
    for override in overrides:
        apply_override(fields, override)
    spec = validate(DownstreamSpec, fields, where, overrides)
    return spec.model_copy(update={"store": spec.store.absolute()})


def read_comparison(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file. Raises UserError for a file that is none."""
    return read_mapping(path, "encoders: {wimamba: runs/wimamba/model}")
