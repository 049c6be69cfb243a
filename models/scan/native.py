"""The selective scan and its convolution in C with OpenMP, as differentiable functions.

float32 on the CPU, with as many threads as PyTorch uses; results do not depend on their number. The backward pass
keeps the operands and the states at every 32nd step, and recomputes the rest. float64 goes to the chunked scan.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers.packing import Sequences
from models.scan.build import native_library
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.problem import Extents, ScanProblem, unit_stride

_MAX_TAPS = 16


class _Series(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "time", "group")))


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "time", "groups", "channels", "states")),
        ("lengths", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("reverse", ctypes.c_void_p),
        ("softplus", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    )


class _Operands(ctypes.Structure):
    _fields_ = (
        *((name, _Series) for name in ("u", "delta", "z", "B", "C")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = (
        *((name, _Series) for name in ("out", "u", "delta", "z", "B", "C")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias")),
    )


class _Filter(ctypes.Structure):
    _fields_ = (
        ("x", _Series),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("taps", ctypes.c_int64),
    )


@cache
def load_library() -> ctypes.CDLL:
    """The compiled functions, once a process. Raises CannotBuildError, or OSError for a library that does not load."""
    library = ctypes.CDLL(str(native_library()))
    shape = ctypes.POINTER(_Shape)
    library.scan_start_floats.argtypes = [shape]
    library.scan_start_floats.restype = ctypes.c_int64
    library.scan_forward.argtypes = [shape, ctypes.POINTER(_Operands), _Series, ctypes.c_void_p]
    library.scan_forward.restype = None
    library.scan_backward.argtypes = [shape, ctypes.POINTER(_Operands), ctypes.c_void_p, ctypes.POINTER(_Gradients)]
    library.scan_backward.restype = ctypes.c_int
    library.filter_forward.argtypes = [shape, ctypes.POINTER(_Filter), _Series]
    library.filter_forward.restype = None
    library.filter_backward.argtypes = [
        shape,
        ctypes.POINTER(_Filter),
        _Series,
        _Series,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    library.filter_backward.restype = None
    return library


def native_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, on the CPU."""
    if problem.u.dtype != torch.float32:
        return chunked_scan(problem)
    series = (problem.u, problem.delta, problem.A, problem.B, problem.C, problem.D, problem.z, problem.delta_bias)
    output: Tensor = _Scan.apply(  # type: ignore[no-untyped-call]
        *series, problem.softplus, problem.reverse, *_parted(problem.lengths)
    )
    return output


def native_convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Extents) -> Tensor:
    """As ``models.scan.operations.short_convolution``, on the CPU and for at most 16 taps."""
    if x.dtype != torch.float32:
        return shifted_convolution(x, weight, bias, reverse, lengths)
    assert weight.shape[-1] <= _MAX_TAPS, f"at most {_MAX_TAPS} taps"
    output: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, reverse, *_parted(lengths)
    )
    return output


def _parted(lengths: Extents) -> tuple[Tensor | None, Tensor | None]:
    """Int64 lengths of padded samples, offsets of packed ones."""
    if isinstance(lengths, Sequences):
        return None, lengths.offsets.long()
    return None if lengths is None else lengths.long().contiguous(), None


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
        reverse: tuple[bool, ...],
        lengths: Tensor | None,
        offsets: Tensor | None,
    ) -> Tensor:
        operands = [None if part is None else unit_stride(part) for part in (u, delta, z, B, C)]
        fixed = [None if part is None else part.contiguous() for part in (A, D, bias)]
        shape = _Call(u, A.shape[2], reverse, lengths, offsets, softplus)
        output = torch.empty(u.shape)
        library = load_library()
        starts = torch.empty(library.scan_start_floats(shape.struct)) if any(context.needs_input_grad) else None
        library.scan_forward(shape.struct, _operands(operands, fixed), _series(output), _pointer(starts))
        context.save_for_backward(*operands, *fixed, starts, lengths, offsets)
        context.settings = (softplus, reverse)
        return output

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        u, delta, z, B, C, A, D, bias, starts, lengths, offsets = context.saved_tensors
        softplus, reverse = context.settings
        shape = _Call(u, A.shape[2], reverse, lengths, offsets, softplus)
        new = torch.empty if lengths is None else torch.zeros
        d_u, d_delta, d_B, d_C = (new(part.shape) for part in (u, delta, B, C))
        d_z = None if z is None else new(z.shape)
        sums = [torch.empty((shape.batch, *part.shape)) for part in (A, D, D)]
        series = [_series(part) for part in (unit_stride(gradients[0]), d_u, d_delta, d_z, d_B, d_C)]
        structure = _Gradients(*series, *(_pointer(part) for part in sums))
        failed = load_library().scan_backward(
            shape.struct, _operands((u, delta, z, B, C), (A, D, bias)), _pointer(starts), structure
        )
        if failed:
            raise MemoryError("no memory for the gradient of the selective scan")
        d_A, d_D, d_bias = (part.sum(dim=0) for part in sums)
        return d_u, d_delta, d_A, d_B, d_C, d_D, d_z, None if bias is None else d_bias, None, None, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        reverse: tuple[bool, ...],
        lengths: Tensor | None,
        offsets: Tensor | None,
    ) -> Tensor:
        x, weight, bias = unit_stride(x), weight.contiguous(), bias.contiguous()
        shape = _Call(x, 1, reverse, lengths, offsets)
        output = torch.empty(x.shape)
        load_library().filter_forward(shape.struct, _filter(x, weight, bias), _series(output))
        context.save_for_backward(x, weight, bias, lengths, offsets)
        context.reverse = reverse
        return output

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight, bias, lengths, offsets = context.saved_tensors
        shape = _Call(x, 1, context.reverse, lengths, offsets)
        d_x = (torch.empty if lengths is None else torch.zeros)(x.shape)
        d_weight, d_bias = (torch.empty((shape.batch, *part.shape)) for part in (weight, bias))
        gradient = _series(unit_stride(gradients[0]))
        load_library().filter_backward(
            shape.struct, _filter(x, weight, bias), gradient, _series(d_x), _pointer(d_weight), _pointer(d_bias)
        )
        return d_x, d_weight.sum(dim=0), d_bias.sum(dim=0), None, None, None


class _Call:
    """The dimensions of a call, and the memory they point to. batch: samples, padded or packed."""

    def __init__(
        self,
        series: Tensor,
        states: int,
        reverse: tuple[bool, ...],
        lengths: Tensor | None,
        offsets: Tensor | None,
        softplus: bool = False,
    ) -> None:
        self.batch = len(series) if offsets is None else len(offsets) - 1
        self.memory = (lengths, offsets, (ctypes.c_uint8 * len(reverse))(*reverse))
        pointers = (_pointer(lengths), _pointer(offsets), ctypes.cast(self.memory[2], ctypes.c_void_p))
        self.struct = _Shape(self.batch, *series.shape[1:], states, *pointers, softplus, torch.get_num_threads())


def _operands(series: Any, fixed: Any) -> _Operands:
    return _Operands(*(_series(part) for part in series), *(_pointer(part) for part in fixed))


def _filter(x: Tensor, weight: Tensor, bias: Tensor) -> _Filter:
    return _Filter(_series(x), _pointer(weight), _pointer(bias), weight.shape[-1])


def _series(tensor: Tensor | None) -> _Series:
    if tensor is None:
        return _Series(None, 0, 0, 0)
    return _Series(tensor.data_ptr(), *tensor.stride()[:3])


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
