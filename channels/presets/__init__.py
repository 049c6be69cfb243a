"""Catalogues of sets that ship with the package, among them ``hetercsi``: the published 40 + 12."""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from channels.errors import UserError
from channels.spec import ChannelSpec
from channels.yaml_files import parse_shipped


@dataclass(frozen=True, slots=True)
class Preset:
    """A named catalogue: the sets to pre-train on and those held out for zero-shot evaluation."""

    name: str
    pretrain: tuple[ChannelSpec, ...]
    zeroshot: tuple[ChannelSpec, ...]


def preset_names() -> tuple[str, ...]:
    """Names that ``load_preset`` knows, in alphabetical order."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


@functools.cache
@functools.cache
def load_preset(name: str) -> Preset:
    """The catalogue of this name. Raises UserError for an unknown one, naming the nearest."""
    if name not in preset_names():
        nearest = difflib.get_close_matches(name, preset_names(), n=1, cutoff=0.0)[0]
        known = ", ".join(preset_names())
        mend = f"did you mean {nearest!r}? There are {known}"
        raise UserError(f"unknown preset {name!r}", where="--preset", mend=mend)
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    catalogue = parse_shipped(text)
    return Preset(name, _specs(catalogue, "pretrain", name), _specs(catalogue, "zeroshot", name))


def _specs(catalogue: Mapping[str, list[object]], role: str, name: str) -> tuple[ChannelSpec, ...]:
    rows = enumerate(catalogue[role])
    return tuple(ChannelSpec.from_mapping(row, f"preset {name}, {role}[{index}]") for index, row in rows)
