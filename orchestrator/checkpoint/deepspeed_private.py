"""Every private part of DeepSpeed that we use, in one place.

A training state is found in flat buffers whose layout follows from rank and ZeRO stage, and a start leaves out what a
worker has no use for. Another version of DeepSpeed may change any of it: ``tests/orchestrator/checkpoint/
test_deepspeed_private.py`` names what changed.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MUON = "deepspeed.runtime.zero.muon.original_muon"
EXCHANGES = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "reduce_scatter",
    "reduce_scatter_tensor",
)
"""Collective operations of DeepSpeed's backend that its ZeRO stages use."""


@dataclass(frozen=True, slots=True)
class MasterRange:
    """Where this rank keeps a range of one parameter: in a master tensor in float32, which the optimizer steps."""

    parameter: nn.Parameter
    start: int
    """First element of the range in the flattened parameter."""
    master: Tensor
    offset: int
    """First element of the range in the flattened master."""
    length: int


def set_up_deepspeed(device: str) -> None:
    """Import DeepSpeed for this device, without what a worker has no use for.

    Its autotuner imports MLflow where there is one, which takes as long as DeepSpeed itself; its own Muon, which every
    engine looks at and none of ours uses, imports torch's compiler. On a CPU DeepSpeed compiles a shared-memory
    operation for two minutes. On CUDA its stages 1 and 2 stop the host for each gradient's norm.
    """
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _hidden("mlflow"):
        torch_backend = importlib.import_module("deepspeed.comm.torch")
    with _uncompiled():
        importlib.import_module(MUON)
    if device == "cpu":
        setattr(torch_backend, "build_shm_op", lambda: None)  # noqa: B010
    else:
        zero = importlib.import_module("deepspeed.runtime.zero.stage_1_and_2")
        setattr(zero, "mask_nan_or_inf_with_val_inplace", _mark_bad_norm)  # noqa: B010
        setattr(zero, "is_invalid_grad_norm", _believe_norm)  # noqa: B010


def _mark_bad_norm(norm: Tensor, device: object = None, val: float = -1.0) -> None:
    """Replace a norm that is not finite by ``val``, in place and on its device."""
    norm.copy_(torch.where(norm.isfinite(), norm, val))


def _believe_norm(norm: Tensor) -> bool:
    """Whether a norm is bad: never, as the step's report finds it when the host reads it, and ends the run."""
    return False


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Let functions that are decorated with ``torch.compile`` stay as they are for the time of a ``with``."""
    own = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = own


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let imports of a package fail for the time of a ``with``, unless it has been imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def around_exchanges(around: Callable[[], AbstractContextManager[object]]) -> None:
    """Enter a context around every collective operation of DeepSpeed in this process from now on."""
    backend = importlib.import_module("deepspeed.comm.comm").cdb

    def within(name: str) -> Callable[..., Any]:
        own = getattr(type(backend), name).__get__(backend)

        def exchange(*arguments: Any, **options: Any) -> Any:
            with around():
                return own(*arguments, **options)

        return exchange

    for name in EXCHANGES:
        setattr(backend, name, within(name))


def support(kind: type[torch.optim.Optimizer]) -> None:
    """Let DeepSpeed's ZeRO stages take an optimizer of ours without a warning."""
    known = importlib.import_module("deepspeed.runtime.zero.utils").ZERO_SUPPORTED_OPTIMIZERS
    if kind not in known:
        known.append(kind)


def forget_first_step(optimizer: Any) -> None:
    """Undo the count of the step that DeepSpeed makes at the start where it wraps all of it (bf16 with stage 0)."""
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    if isinstance(optimizer, FP16_UnfusedOptimizer):
        optimizer.optimizer.state.clear()


def elements(parameter: nn.Parameter) -> int:
    """Elements of a whole parameter, of which stage 3 leaves an empty tensor in the model."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, without DeepSpeed's wrapper where there is one."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def masters(optimizer: Any, stage: int) -> list[tuple[Tensor, dict[str, Any]]]:
    """The tensors that the optimizer steps on this rank, each with its parameter group."""
    groups = optimizer.param_groups
    if stage == 3:
        numbers = optimizer.sub_group_to_group_id
        flats = enumerate(optimizer.fp32_partitioned_groups_flat)
        return [(flat, groups[numbers[number]]) for number, flat in flats]
    if stage:
        return list(zip(optimizer.single_partition_of_fp32_groups, groups, strict=True))
    return [(master, group) for group in groups for master in group["params"]]


def replicas(optimizer: Any) -> list[tuple[nn.Parameter, Tensor]]:
    """Stage 0: (parameter, master) pairs; in fp32 a parameter is its own master."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return [(parameter, parameter) for group in optimizer.param_groups for parameter in group["params"]]
    groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return [pair for low, high in groups for pair in zip(low, high, strict=True)]


def ranges(optimizer: Any, stage: int, parameters: list[nn.Parameter], rank: int) -> Iterator[MasterRange]:
    """All that this rank trains with; the ranges of all ranks may overlap. parameters: of the model, in its order."""
    if stage == 3:
        yield from _scattered(optimizer, parameters, rank)
    elif stage:
        yield from _flat(optimizer)
    else:
        for parameter, master in replicas(optimizer):
            yield MasterRange(parameter, 0, master, 0, master.numel())


def _flat(optimizer: Any) -> Iterator[MasterRange]:
    """Stages 1 and 2: one flat buffer a group, cut into as many ranges as ranks."""
    for flat, group in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is not None:
                inside, within = mapping.hp_fragment_address, mapping.lp_fragment_address
                yield MasterRange(parameter, within.start, flat, inside.start, inside.numel)


def _scattered(optimizer: Any, parameters: list[nn.Parameter], rank: int) -> Iterator[MasterRange]:
    """Stage 3: every parameter is cut into as many ranges as ranks, the last ones padded."""
    for parameter in parameters:
        group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = rank * padded
        length = min(padded, elements(parameter) - start)
        if length > 0:
            yield MasterRange(parameter, start, optimizer.fp32_partitioned_groups_flat[group], offset, length)


def publish(optimizer: Any, stage: int) -> None:
    """Make the weights that the forward pass uses follow the master weights (collective)."""
    with torch.no_grad():
        if stage == 3:
            for group in range(len(optimizer.fp32_partitioned_groups_flat)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            optimizer.checkpoint_event_epilogue()
        elif stage:
            optimizer.update_lp_params()
        else:
            for parameter, master in replicas(optimizer):
                parameter.copy_(master)
