"""A downstream task as data: which feature of a sample, which head, which loss, which label, how it is scored."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from channels.errors import UserError
from channels.yaml_files import read_mapping
from orchestrator.spec.job import NAME_PATTERN
from orchestrator.spec.section import Positive, Section
from orchestrator.spec.yaml_files import validate

Feature = Literal["class", "mean", "flat", "patches"]
Normalisation = Literal["unit", "gain", "set"]
Metric = Literal["accuracy", "weighted_f1", "top_1", "top_3", "nmse_db", "mae_m", "euclidean_m"]
OF_CLASSES = ("accuracy", "weighted_f1", "top_1", "top_3")
OF_NUMBERS = ("mae_m", "euclidean_m")
LOWER_IS_BETTER = ("nmse_db", "mae_m", "euclidean_m")
SHIPPED = ("los", "beam", "interpolation", "localisation")


class Given(Section):
    """Which entries of a channel are shown: every so many-th subcarrier and antenna, from the first; others are 0."""

    subcarriers: Positive = 1
    antennas: Positive = 1


class Training(Section):
    """How a head is trained: Adam, its rate multiplied by ``lr_factor`` every ``lr_every`` epochs."""

    epochs: Positive = 100
    batch: Annotated[int, Field(ge=4)] = 128
    """Most samples of a step."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    lr_every: Positive = 20
    lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    batch_norm: bool = True
    """Behind every hidden layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Task(Section):
    """One column of the comparison."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    feature: Feature
    """``class``: the class token's vector. ``mean``: the mean over class token and patches. ``flat``: all patches, one
    after the other. ``patches``: every patch by itself; the head predicts the entries of its channel."""
    hidden: tuple[Positive, ...] = ()
    """Units of the hidden layers, each followed by a ReLU; without any the head is linear."""
    loss: Literal["cross_entropy", "mse"]
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """The first one is drawn."""
    label: tuple[str, ...] = ()
    """Names that stored labels go by: of every set the first one that it has."""
    codebook: Positive | Literal["antennas"] | None = None
    """Where a set has no such label, for all sets: the best of so many DFT beams, computed from the channel."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Classes 0 .. classes - 1 of a stored label; null: as many as occur."""
    absent_classes: Literal["refuse", "count"] = "refuse"
    """Of a class that is tested but not trained on: an error, or test samples that count as wrong."""
    columns: Positive | None = None
    """First columns of the label that are predicted; null: all."""
    origin: tuple[str, ...] = ()
    """Names of stored labels that are subtracted from the label, where a set has one: the first of them."""
    given: Given | None = None
    """Of a task on patches: what it shows; the rest is predicted and scored. null: everything is."""
    normalisation: Normalisation = "unit"
    """``unit``: every sample has unit power, path loss is gone. ``gain``: the head gets the gain in dB beside the
    feature. ``set``: one factor for all samples of a set, path loss stays in what the encoder sees."""
    training: Training = Training()

    @model_validator(mode="after")
    def _fits_together(self) -> "Task":
        allowed: Sequence[str] = OF_CLASSES if self.loss == "cross_entropy" else OF_NUMBERS
        if self.feature == "patches":
            allowed = ("nmse_db",)
            if self.loss != "mse" or self.label or self.codebook or self.normalisation == "gain":
                raise ValueError("a task on patches predicts the channel: loss mse, no label, no gain")
        elif not self.label and self.codebook is None:
            raise ValueError("there is neither a label nor a codebook; name the stored label")
        if self.given is not None and self.feature != "patches":
            raise ValueError("given is for tasks on patches; leave it out")
        wrong = [metric for metric in self.metrics if metric not in allowed]
        if wrong:
            raise ValueError(f"{wrong[0]} does not fit loss {self.loss}; take {', '.join(allowed)}")
        return self

    @property
    def is_classification(self) -> bool:
        """Whether the label is a class."""
        return self.loss == "cross_entropy"


def read_task(name: str) -> Task:
    """A shipped task by name, or one of a YAML file by its path.

    Raises:
        UserError: neither, or a file that is no task.
    """
    if name in SHIPPED:
        text = resources.files(__package__).joinpath("tasks", f"{name}.yaml").read_text(encoding="utf-8")
        return validate(Task, yaml.safe_load(text), f"task {name}")
    if not name.endswith((".yaml", ".yml")):
        mend = f"shipped: {', '.join(SHIPPED)}; one's own is the path of a YAML file"
        raise UserError(f"no task {name!r}", where="tasks", mend=mend)
    return validate(Task, read_mapping(Path(name), "feature: class"), name)


def read_tasks(names: Sequence[str]) -> tuple[Task, ...]:
    """All of them. Raises UserError as ``read_task`` does, and for two tasks of one name."""
    tasks = tuple(read_task(name) for name in names)
    known = [task.name for task in tasks]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two tasks are called {twice!r}", where="tasks", mend="name each once, or rename one")
    return tasks
