"""PyTorch files (``.pt``, ``.pth``) of tensors, alone or in dictionaries and lists; nothing else is unpickled."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.importers.files.arrays import NUMBER_KINDS, Contents, Slices, StoredArray, as_complex

_DEPTH = 4
_UNSUPPORTED = re.compile(r"Unsupported [^\n]*?(?= was not| has| by default|\n|$)")
_WHOLE = "tensor"
"""The name of a tensor that is alone in its file."""


def torch_contents(path: Path, *, mapped: bool) -> Contents:
    """The tensors of a file, those in dictionaries and lists by their path: ``task/labels``, ``0``.

    mapped: memory-mapped, which files of PyTorch before 1.6 cannot be. Raises UserError where the file is broken or
    holds more than tensors, numbers and text.
    """
    arrays: list[StoredArray] = []
    passed: list[tuple[str, str]] = []
    for key, value in _leaves(_load(path, mapped), "", 0):
        numbers = _numbers(value)
        if numbers is None:
            passed.append((key or _WHOLE, f"a {type(value).__name__}"))
        else:
            arrays.append(_array(path, key or _WHOLE, numbers, mapped))
    return Contents(path, "PyTorch", tuple(arrays), tuple(passed))


@dataclass(frozen=True, slots=True)
class _Numbers:
    """A leaf that is an array: its shape, type and slices."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Slices


def _leaves(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth >= _DEPTH or _is_leaf(value):
        yield key, value
        return
    entries = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, entry in entries:
        yield from _leaves(entry, f"{key}/{name}" if key else str(name), depth + 1)


def _is_leaf(value: Any) -> bool:
    """Dictionaries are entered, and lists that hold tensors; a list of numbers or of like tensors is an array."""
    import torch

    if isinstance(value, Mapping):
        return False
    if not isinstance(value, list | tuple) or _is_stack(value):
        return True
    return not any(isinstance(entry, torch.Tensor | Mapping) for entry in value)


def _is_stack(value: Any) -> bool:
    """Whether these are the samples of one array: a list of two or more tensors of one shape and type."""
    import torch

    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(entry, torch.Tensor) for entry in value):
        return False
    return len({(entry.shape, entry.dtype) for entry in value}) == 1


def _numbers(value: Any) -> _Numbers | None:
    """The array that a leaf is; None for text and whatever else."""
    if _is_stack(value):
        rows = [_tensor_values(entry) for entry in value]
        if any(row is None for row in rows):
            return None
        return _Numbers((len(rows), *rows[0].shape), rows[0].dtype, lambda *cut: _cut_stack(rows, *cut))
    values = _tensor_values(value)
    if values is None and (isinstance(value, bool | int | float) or (isinstance(value, list | tuple) and value)):
        try:
            values = np.asarray(value)
        except ValueError:
            return None
    if values is None or values.dtype.kind not in NUMBER_KINDS:
        return None
    shown = np.atleast_1d(values)
    return _Numbers(
        values.shape, values.dtype, lambda axis, start, end: shown[(slice(None),) * axis + (slice(start, end),)]
    )


def _cut_stack(rows: Sequence[NDArray[Any]], axis: int, start: int, end: int) -> NDArray[Any]:
    if axis == 0:
        return np.stack(rows[start:end])
    return np.stack([row[(slice(None),) * (axis - 1) + (slice(start, end),)] for row in rows])


def _tensor_values(value: Any) -> Any:
    """NumPy's view of a tensor; None for anything else, and for tensors that NumPy has no form of."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        return None
    value = value.detach().resolve_conj().resolve_neg()
    if value.dtype is torch.complex32:
        parts = torch.view_as_real(value).float().numpy()
        return as_complex(parts[..., 0], parts[..., 1])
    try:
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    except TypeError:
        return None


def _array(path: Path, key: str, numbers: _Numbers, mapped: bool) -> StoredArray:
    shape = numbers.shape

    @contextmanager
    def opened() -> Iterator[Slices]:
        found = next((leaf for name, leaf in _leaves(_load(path, mapped), "", 0) if (name or _WHOLE) == key), None)
        again = _numbers(found)
        if again is None or again.shape != shape:
            raise UserError(f"{key} is another than a moment ago", where=str(path), mend="run it again")
        yield again.read

    return StoredArray(path, key, shape, numbers.dtype, opened)


def _load(path: Path, mapped: bool) -> Any:
    import torch

    try:
        # torch warns of its own code where it reads quantized tensors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        what = f"it holds more than tensors ({_first_line(error)}), and nothing else is unpickled"
        mend = "save it as a dictionary of tensors: torch.save({'channels': channels, 'labels': labels}, FILE)"
        raise UserError(what, where=str(path), mend=mend) from error
    # torch raises whatever its parser stumbles over on a broken file.
    except Exception as error:
        what = f"cannot be read as a PyTorch file ({_first_line(error)})"
        raise UserError(what, where=str(path), mend="fetch it again") from error


def _first_line(error: Exception) -> str:
    text = str(error)
    unsupported = _UNSUPPORTED.search(text)
    words = " ".join((unsupported.group() if unsupported else text.split("\n\n")[0]).split())
    return words[:200] or type(error).__name__
