"""Reading the weights of a released checkpoint; nothing of a file is executed."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from channels.errors import UserError

SAFETENSORS = ".safetensors"
WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts save the weights beside the state of the optimizer."""
POINTER = b"version https://git-lfs"
"""How a file of a repository begins whose content git-lfs has not fetched."""
PARALLEL = "module."
"""What data-parallel engines put before every name."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors float32 by published name, on the CPU.

    A ``.safetensors`` file, or one of torch.save: a state dictionary, or a dictionary that holds one (``WRAPPERS``).
    The latter is read with ``weights_only``; of other classes only ``argparse.Namespace`` is accepted, which training
    scripts save beside the weights.

    Raises:
        UserError: no such file, not a checkpoint, other classes in it, no weights, a weight that is not finite.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), mend="name a .pth, .pt or .safetensors file")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError("is a pointer of git-lfs, not the checkpoint", where=str(path), mend="run: git lfs pull")
    content = _read_safetensors(path) if path.suffix == SAFETENSORS else _read_pickle(path)
    weights = {str(name): value for name, value in _state_dictionary(content, path).items()}
    while weights and all(name.startswith(PARALLEL) for name in weights):
        weights = {name.removeprefix(PARALLEL): value for name, value in weights.items()}
    return {name: _checked(name, value, path) for name, value in weights.items()}


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend="fetch the file again") from error
    return tensors


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Memory mapping leaves the optimizer's state, twice the weights, on disk; only zip files have it.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        cause = str(error).partition("GLOBAL ")[2].split(" ")[0]
        what = f"holds objects of class {cause}" if cause else "is not a file of torch.save"
        raise UserError(what, where=str(path), mend="save its state dictionary alone") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"cannot be read ({text})", where=str(path), mend="fetch the file again") from error


def _state_dictionary(content: Any, path: Path) -> Mapping[str, Any]:
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return _state_dictionary(content[key], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content
    keys = f", it has {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) and content else ""
    mend = f"it is to be a dictionary of tensors, or to hold one under {' or '.join(WRAPPERS)}"
    raise UserError(f"holds no state dictionary{keys}", where=str(path), mend=mend)


def _checked(name: str, value: Tensor, path: Path) -> Tensor:
    if not value.is_floating_point():
        raise UserError(f"{name!r} is of type {value.dtype}, not of floating point", where=str(path))
    weight = value.detach().float()
    if not bool(weight.isfinite().all()):
        raise UserError(f"{name!r} holds NaN or infinity", where=str(path), mend="take another checkpoint")
    return weight
