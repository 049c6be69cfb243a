"""Filling a store with the sets of a preset; resumable set by set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from channels.errors import UserError
from channels.presets import Preset
from channels.progress import Progress, add_reporting
from channels.spec import ChannelSpec
from channels.writer import open_writer


@dataclass(frozen=True, slots=True)
class Counts:
    """Samples a set: train and val of each pre-training set, test of each zero-shot set (and of no other).

    zeroshot_train, zeroshot_val: of each zero-shot set too, for models that are trained on that set alone.
    """

    train: int
    val: int
    test: int
    zeroshot_train: int = 0
    zeroshot_val: int = 0

    def of(self, role: str) -> dict[str, int]:
        """Splits of a set of this role."""
        if role == "pretrain":
            return {"train": self.train, "val": self.val}
        return {"train": self.zeroshot_train, "val": self.zeroshot_val, "test": self.test}


def make_store(path: Path, preset: Preset, counts: Counts, seed: int, progress: Progress, device: str = "cpu") -> None:
    """Make the channels of all sets of a preset; sets that the store holds already are left as they are.

    Raises UserError where the store holds another set of the same name or cannot be written.
    """
    # Making channels needs torch; naming sets and importing them does not.
    from channels.make import as_made, check_makeable, generator_origin, make_channels

    everything = [(spec, "pretrain") for spec in preset.pretrain] + [(spec, "zeroshot") for spec in preset.zeroshot]
    sets = [(spec, role) for spec, role in everything if any(counts.of(role).values())]
    if not sets:
        mend = "ask for training, validation or test samples that the chosen sets have"
        raise UserError("no samples are asked for", where="--train, --val and --test", mend=mend)
    for spec, _ in sets:
        check_makeable(spec, device)
    origin = generator_origin(seed)
    with open_writer(path) as writer:
        for spec, role in sets:
            wanted = counts.of(role)
            chunks = {split: make_channels(spec, split, count, seed, device) for split, count in wanted.items()}
            add_reporting(writer, as_made(spec), role, wanted, chunks, origin, progress)


def select_sets(preset: Preset, chosen: str | None) -> Preset:
    """The first N pre-training sets (``"8"``) with all zero-shot sets, or sets by name (``"P01,P05,D1"``); None: all.

    Raises UserError for a number out of range or an unknown name.
    """
    if chosen is None:
        return preset
    if chosen.isdecimal():
        # int() refuses more than 4,300 digits.
        number = int(chosen) if len(chosen) < 10 else math.inf
        if not 1 <= number <= len(preset.pretrain):
            what = f"{chosen[:10]} pre-training sets are asked for, preset {preset.name} has {len(preset.pretrain)}"
            raise UserError(what, where="--sets", mend="ask for 1 at least, and no more than it has")
        return Preset(preset.name, preset.pretrain[: int(number)], preset.zeroshot)
    names = [name.strip() for name in chosen.split(",")]
    known = [spec.name for spec in (*preset.pretrain, *preset.zeroshot)]
    unknown = [name for name in names if name not in known]
    if unknown:
        mend = f"it has {', '.join(known)}"
        raise UserError(f"preset {preset.name} has no set {unknown[0]!r}", where="--sets", mend=mend)
    return Preset(preset.name, _named(preset.pretrain, names), _named(preset.zeroshot, names))


def _named(specs: Sequence[ChannelSpec], names: Sequence[str]) -> tuple[ChannelSpec, ...]:
    return tuple(spec for spec in specs if spec.name in names)
