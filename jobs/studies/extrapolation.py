"""The runs of the study of scales: encodings of positions, trained without the longest sets and with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from channels.errors import UserError
from channels.presets import Preset
from channels.spec import ChannelSpec
from orchestrator.spec.job import JobSpec
from orchestrator.spec.section import Positive, Section
from orchestrator.spec.yaml_files import validate
from samplers.catalogue import catalogue_of_specs

Training = Literal["without", "with"]


class ExtrapolationScale(Section):
    """How large the study of scales is; the fields are described in ``studies/scales.yaml``."""

    longest: Positive
    targets: tuple[str, ...]
    epochs: Positive


@dataclass(frozen=True, slots=True)
class TrainingSets:
    """Names of the pre-training sets of a run without the longest ones and of one with them, as many in each.

    samples: the most that a set is trained with, so that all have as many; None where they have anyway.
    """

    without: tuple[str, ...]
    beside: tuple[str, ...]
    samples: int | None

    @property
    def text(self) -> str:
        """What differs, in a sentence."""
        added = [name for name in self.beside if name not in self.without]
        dropped = [name for name in self.without if name not in self.beside]
        swap = f"{', '.join(added)} in place of {', '.join(dropped)}"
        return f"With the longest sets: {swap}; {len(self.without)} sets each."


def tokens_by_set(specs: Sequence[ChannelSpec]) -> dict[str, int]:
    """Tokens of a sample by name of the set."""
    return {source.name: source.length for source in catalogue_of_specs(specs, 1)}


def choose_training_sets(sets: Preset, most: int, counts: Mapping[str, int], where: str) -> TrainingSets:
    """Without: all sets of at most ``most`` tokens. With: the longer ones in place of the last of them.

    counts: training samples of the sets that exist already, by name. where: they come from, for the message.

    Raises:
        UserError: no set is longer, too few are not, or no held-out set is longer than what is trained without them.
    """
    tokens = tokens_by_set(sets.pretrain)
    short = [name for name, length in tokens.items() if length <= most]
    long = [name for name, length in tokens.items() if length > most]
    if not long or len(short) <= len(long):
        what = f"{len(long)} pre-training sets have more than {most} tokens, {len(short)} have not"
        raise UserError(what, where=where, mend="the study needs some longer ones and more others")
    if max(tokens_by_set(sets.zeroshot).values()) <= max(tokens[name] for name in short):
        what = f"no held-out set is longer than the {max(tokens[name] for name in short)} tokens that are trained"
        raise UserError(what, where=where, mend="take longer held-out sets, e.g. --targets D1,D8")
    beside = [*short[: len(short) - len(long)], *long]
    known = [counts[name] for name in (*short, *long) if name in counts]
    return TrainingSets(tuple(short), tuple(beside), min(known) if known else None)


def extrapolation_jobs(
    study: str, definition: Mapping[str, Any], base: Mapping[str, Any], store: Path, chosen: TrainingSets,
    targets: Sequence[str],
) -> list[tuple[Training, JobSpec]]:  # fmt: skip
    """Every encoding on either choice of sets. base: fields that all runs share. targets: held-out sets."""
    jobs: list[tuple[Training, JobSpec]] = []
    trained: tuple[tuple[Training, tuple[str, ...]], ...] = (("without", chosen.without), ("with", chosen.beside))
    for training, sets in trained:
        for position in definition["positions"]:
            name = f"{study}.{position}.{training}-longest"
            data = {"store": str(store.absolute()), "sets": list(sets), "zeroshot_sets": list(targets)}
            section = {
                **base,
                "name": name,
                "data": data if chosen.samples is None else {**data, "samples": chosen.samples},
                "model": {**base["model"], "position": position},
                "batching": {**base["batching"], **definition["batching"]},
            }
            jobs.append((training, validate(JobSpec, section, f"run {name}")))
    return jobs
