"""The runs of the study of a recipe: a shipped job, and runs of equal cost that differ from it in one thing each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from channels.errors import UserError
from channels.yaml_files import parse_shipped
from orchestrator.spec.job import JobSpec, make_job
from orchestrator.spec.section import Positive, Section

BASE = "base"
"""Name of the run that has no change."""
RunSeeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]


class RecipeScale(Section):
    """How large the study of the recipe is; the fields are described in ``studies/scales.yaml``."""

    samples: Positive
    changes: Literal["all"] | tuple[str, ...]
    seeds: RunSeeds
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A job and its changes. base: fields of the job. changes: overrides ``a.b=c`` by name, the base's first, which
    all others have too. shares: samples of a set over the base's, by name, where they differ."""

    base: Mapping[str, Any]
    changes: Mapping[str, Sequence[str]]
    shares: Mapping[str, float]

    @property
    def preset(self) -> str:
        """Name of the preset that the job's channels are made by."""
        name: str = self.base["data"]["preset"]["name"]
        return name

    def samples(self, change: str, samples: int) -> int:
        """Of a set, for a run with a change. samples: the base's."""
        return max(1, round(samples * self.shares.get(change, 1.0)))

    def most_samples(self, samples: int) -> int:
        """Of a set, for the run that needs the most, whichever are chosen: all find the same channels."""
        return max(self.samples(change, samples) for change in self.changes)

    def chosen(self, names: Literal["all"] | Sequence[str]) -> list[str]:
        """The changes of these names in their order here, after the base, which the others are compared with.

        Raises:
            UserError: no change has one of the names.
        """
        if names == "all":
            return list(self.changes)
        unknown = [name for name in names if name not in self.changes]
        if unknown:
            mend = f"there are {', '.join(self.changes)}"
            raise UserError(f"no change {unknown[0]!r}", where="--changes", mend=mend)
        return [name for name in self.changes if name == BASE or name in names]


def read_recipe(definition: Mapping[str, Any]) -> Recipe:
    """The recipe of a definition in ``studies.yaml``, with the shipped job that it names."""
    text = resources.files("jobs").joinpath(f"{definition['job']}.yaml").read_text()
    changes = {BASE: (), **definition["changes"]}
    every = {name: (*definition["base"], *own) for name, own in changes.items()}
    return Recipe(parse_shipped(text), every, definition["shares"])


def recipe_jobs(
    study: str, description: str, recipe: Recipe, scale: RecipeScale, store: Path, sets: Sequence[str]
) -> list[tuple[str, JobSpec]]:
    """Every chosen change with every seed, one epoch each; all changes of a seed before the next one.

    store: of made channels. sets: names of its pre-training sets.

    Raises:
        UserError: an unknown change.
    """
    base = recipe.base
    data = {key: value for key, value in base["data"].items() if key != "preset"}
    jobs = []
    for seed in dict.fromkeys(scale.seeds):
        for change in recipe.chosen(scale.changes):
            name = f"{study}.{change}.seed-{seed}"
            fields = {
                **base,
                "name": name,
                "description": description,
                "seed": seed,
                "data": {
                    **data,
                    "store": str(store.absolute()),
                    "sets": list(sets),
                    "zeroshot_sets": list(scale.targets),
                    "samples": recipe.samples(change, scale.samples),
                },
                "train": {**base["train"], "epochs": 1},
                "evaluation": {"batch": base["evaluation"]["batch"], "references": False, "link_snr_db": None},
            }
            jobs.append((change, make_job(fields, recipe.changes[change], f"run {name}")))
    return jobs
