"""A catalogue of sets that are only specified: to plan before any sample is made or imported."""

from collections.abc import Iterable

import numpy as np

from channels.spec import ChannelSpec
from samplers.catalogue import Catalogue, Source


def catalogue_of_specs(specs: Iterable[ChannelSpec], samples: int, patch: int = 4) -> Catalogue:
    """Sets that need not exist on disk, ``samples`` each, tokens being cubes of edge ``patch`` in (T, K, A)."""
    return Catalogue([Source(spec.name, _tokens(spec, patch), samples) for spec in specs])


def _tokens(spec: ChannelSpec, patch: int) -> int:
    return int(np.prod([-(-edge // patch) for edge in spec.shape]))
