"""Filling a store with the sets of a preset; resumable set by set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from channels.errors import UserError
from channels.make import check_makeable, generator_origin, make_channels
from channels.presets import Preset
from channels.progress import Progress, add_reporting
from channels.spec import ChannelSpec
from channels.writer import open_writer


@dataclass(frozen=True, slots=True)
class Counts:
    """Samples a set: train and val of each pre-training set, test of each zero-shot set (and of no other)."""

    train: int
    val: int
    test: int

    def of(self, role: str) -> dict[str, int]:
        """Splits of a set of this role."""
        return {"train": self.train, "val": self.val} if role == "pretrain" else {"test": self.test}


def make_store(path: Path, preset: Preset, counts: Counts, seed: int, progress: Progress, device: str = "cpu") -> None:
    """Make the channels of all sets of a preset; sets that the store holds already are left as they are.

    Raises UserError where the store holds another set of the same name or cannot be written.
    """
    sets = [(spec, "pretrain") for spec in preset.pretrain] + [(spec, "zeroshot") for spec in preset.zeroshot]
    for spec, _ in sets:
        check_makeable(spec, device)
    origin = generator_origin(seed)
    with open_writer(path) as writer:
        for spec, role in sets:
            wanted = counts.of(role)
            if not any(wanted.values()):
                continue
            chunks = {split: make_channels(spec, split, count, seed, device) for split, count in wanted.items()}
            add_reporting(writer, spec, role, wanted, chunks, origin, progress)


def select_sets(preset: Preset, chosen: str | None) -> Preset:
    """The first N pre-training sets (``"8"``) with all zero-shot sets, or sets by name (``"P01,P05,D1"``); None: all.

    Raises UserError for a number out of range or an unknown name.
    """
    if chosen is None:
        return preset
    if chosen.isdecimal():
        number = int(chosen)
        if not 1 <= number <= len(preset.pretrain):
            what = f"{number} pre-training sets are asked for, preset {preset.name} has {len(preset.pretrain)}"
            raise UserError(what, where="--sets")
        return Preset(preset.name, preset.pretrain[:number], preset.zeroshot)
    names = [name.strip() for name in chosen.split(",")]
    known = [spec.name for spec in (*preset.pretrain, *preset.zeroshot)]
    unknown = [name for name in names if name not in known]
    if unknown:
        mend = f"it has {', '.join(known)}"
        raise UserError(f"preset {preset.name} has no set {unknown[0]!r}", where="--sets", mend=mend)
    return Preset(preset.name, _named(preset.pretrain, names), _named(preset.zeroshot, names))


def _named(specs: Sequence[ChannelSpec], names: Sequence[str]) -> tuple[ChannelSpec, ...]:
    return tuple(spec for spec in specs if spec.name in names)
