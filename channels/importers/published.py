"""Which published set a folder is: looked up by role and name, since both roles count their sets from D1 on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from channels.presets import load_preset
from channels.spec import ChannelSpec

CATALOGUE = "hetercsi"
FULL_SCALE: Mapping[str, int] = {"train": 9000, "val": 1000, "test": 2000}
"""Samples of each split of a published set (HeterCSI, data_generation)."""

_ROLES = {
    "train": "pretrain",
    "pretrain": "pretrain",
    "pretraining": "pretrain",
    "zeroshot": "zeroshot",
    "generalization": "zeroshot",
    "generalisation": "zeroshot",
}
_LEVELS = 2
"""Folders above a set's in which its role may stand."""


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A set of the HeterCSI paper. spec: under the name that it has in the preset: P07 for the training set D7."""

    spec: ChannelSpec
    role: str


def role_word(folder: Path) -> str | None:
    """The word for a role, as published, that a folder above this one is called."""
    parents = folder.absolute().parents[:_LEVELS]
    return next((parent.name for parent in parents if role_of(parent.name)), None)


def role_of(word: str) -> str | None:
    """``pretrain`` or ``zeroshot`` for the published words, None for any other."""
    return _ROLES.get(re.sub(r"[-_ ]", "", word.lower()))


def published_candidates(name: str, role: str | None) -> list[PublishedSet]:
    """Published sets that go by a name, of one role or of both: D3 is P03 among those to train on."""
    preset = load_preset(CATALOGUE)
    number = name.upper().removeprefix("D")
    found: list[PublishedSet] = []
    for each, specs in (("pretrain", preset.pretrain), ("zeroshot", preset.zeroshot)):
        names = {name.upper(), f"P{int(number):02}" if each == "pretrain" and re.fullmatch(r"\d{1,3}", number) else ""}
        if role in (None, each):
            found += [PublishedSet(spec, each) for spec in specs if spec.name in names]
    return found


def is_published_name(name: str) -> bool:
    """Whether a published set has this name in a store, where no other set may have it: P01 to P40, D1 to D12."""
    preset = load_preset(CATALOGUE)
    return any(spec.name == name for spec in (*preset.pretrain, *preset.zeroshot))


def differences(config: Mapping[str, Any], published: ChannelSpec) -> list[str]:
    """Fields in which a configuration is not that of a published set, in words."""
    known = published.to_mapping()
    found = []
    for key, value in config.items():
        same = value == known[key] or (isinstance(value, float) and np.isclose(value, known[key], rtol=1e-6))
        if not same:
            found.append(f"{key} {value}, published {known[key]}")
    return found


def published_at_full_scale(origin: Mapping[str, Any]) -> bool:
    """Whether a manifest's origin says that a set is a published HeterCSI set with all its samples."""
    return origin.get("published_catalogue") == CATALOGUE and origin.get("full_scale") is True


def published_origin(published: PublishedSet, counts: Mapping[str, int]) -> dict[str, Any]:
    """What the manifest keeps of a set that is a published one. counts: samples of the splits that are there."""
    needed = ("train", "val") if published.role == "pretrain" else ("test",)
    whole = all(counts.get(split) == FULL_SCALE[split] for split in {*needed, *counts})
    return {
        "published_catalogue": CATALOGUE,
        "published_role": published.role,
        "published_name": published.spec.name,
        "full_scale": whole,
    }
