"""The published networks as they computed: weights under their published names, inputs and outputs."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import REAL_DATA

FOLDER = REAL_DATA / "oracles"


@dataclass(frozen=True, slots=True)
class Oracle:
    """weights: the state dictionary. tensors: inputs and outputs by name, e.g. ``prediction/time``."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]


def read_oracle(name: str) -> Oracle:
    """One of the oracles; the test is left out where there are none."""
    path: Path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no published network at {path}")
    stored = load_file(path)
    weights = {key.removeprefix("weights/"): value for key, value in stored.items() if key.startswith("weights/")}
    return Oracle(weights, {key: value for key, value in stored.items() if not key.startswith("weights/")})


def largest_gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference."""
    return float((ours - theirs).abs().max())
