"""What names and shapes of tensors say of a network."""

import re
from collections.abc import Mapping

from torch import Tensor


def rows(weights: Mapping[str, Tensor], name: str) -> int:
    """Length of a tensor's first axis; 0 where there is no such tensor."""
    found = weights.get(name)
    return 0 if found is None or found.ndim == 0 else found.shape[0]


def count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Layers ``<prefix>.0.``, ``<prefix>.1.``, ...: one more than the highest number."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return 1 + max((int(match[1]) for name in weights if (match := pattern.match(name))), default=-1)
