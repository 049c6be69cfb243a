"""What the ranks learn of each other in a step, in one reduction, and the host's reading of it, at once or later."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.signals import Signals
from orchestrator.training.loader import StepBatch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What all ranks agree on after a step."""

    losses: tuple[float, ...]
    """Mean squared error of each task over the masked tokens of the global batch."""
    grad_norm: float
    padded_tokens: int
    """Tokens computed by all ranks, padding included."""
    computed_flops: float
    """Operations of all ranks, padding included."""
    signals: Signals
    """Each one's sum over the ranks."""
    rank_seconds: NDArray[np.float64]
    """[ranks]: for which each rank computed before it waited for the others."""
    exchange_s: float = 0.0
    """For which this rank communicated or waited for the others; on a GPU only the wait for the slowest one."""
    rank_memory: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """[ranks, statistics] of the allocator of each rank's GPU, before the last backward pass of the step; empty on a
    CPU."""


class StepReport:
    """Sums over all ranks of one step's losses, work, signals and marks of losses that are not finite.

    They stay on the device: on CUDA the host goes on with the next step and reads them when they have arrived.
    """

    def __init__(
        self, share: Tensor, batch: StepBatch, signals: Signals, seconds: float, memory: Sequence[float] = ()
    ) -> None:
        """Collective. share: float32 [tasks], this rank's part of the losses. seconds: for which it computed.

        memory: statistics of its allocator, as many on all ranks.
        """
        self._batch = batch
        work, world = (batch.padded_tokens, batch.computed_flops), dist.get_world_size()
        # Each rank adds to zeros where the others have their own. No list of as many numbers as ranks is made.
        took, held = np.zeros(world), np.zeros((world, len(memory)))
        took[dist.get_rank()], held[dist.get_rank()] = seconds, memory
        numbers = np.concatenate([np.array([*work, *signals.values()], np.float64), took, held.ravel()])
        said = torch.from_numpy(numbers).to(share.device, non_blocking=True)
        self._sizes = [len(share), len(work), len(signals.values()), world, held.size, world]
        finite = torch.isfinite(share).all()
        strange = (~finite) * (torch.arange(world, device=share.device) == dist.get_rank())
        self._sums = torch.cat([share.double().where(finite, 0.0), said, strange.double()])
        dist.all_reduce(self._sums)
        self._norm = torch.zeros(1, dtype=torch.float64)
        self._exchanged: float | None = None
        self._arrived: torch.cuda.Event | None = None

    def check_losses(self) -> None:
        """Wait for the sums. Raises TrainingDivergedError, on all ranks, if the loss of one was not finite."""
        self._check_losses(self._split()[-1])

    def add_norm(self, norm: Tensor | float, exchanged: float | None = None) -> None:
        """The gradient's norm before clipping, the last that is known of a step; starts the copy to the host.

        exchanged: seconds that the step communicated; None where the host does not see it.
        """
        self._exchanged = exchanged
        self._norm = torch.as_tensor(norm, dtype=torch.float64).reshape(1)
        if self._sums.is_cuda:
            everything = torch.cat([self._sums, self._norm.to(self._sums.device, non_blocking=True)])
            host = torch.empty_like(everything, device="cpu", pin_memory=True).copy_(everything, non_blocking=True)
            self._sums, self._norm = host[:-1], host[-1:]
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> StepResult:
        """Wait for the numbers.

        Raises:
            TrainingDivergedError: on all ranks, if a loss or the gradient was not finite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        losses, (padded, flops), signals, took, held, strange = self._split()
        self._check_losses(strange)
        norm = float(self._norm)
        # DeepSpeed gives infinity, or -1, for a norm that is not finite.
        if not np.isfinite(norm) or norm < 0:
            raise TrainingDivergedError(f"gradient is NaN or infinite at {self._batch.where}")
        tasks = max(int((self._batch.denominators > 0).sum()), 1)
        agreed = Signals(*map(int, signals))
        waited = took.max() - took[dist.get_rank()] if self._exchanged is None else self._exchanged
        return StepResult(
            tuple(losses * tasks), norm, int(padded), float(flops), agreed, took, exchange_s=float(waited),
            rank_memory=held.reshape(len(took), -1),
        )  # fmt: skip

    def _split(self) -> list[NDArray[np.float64]]:
        return np.split(self._sums.cpu().numpy(), np.cumsum(self._sizes)[:-1])

    def _check_losses(self, strange: NDArray[np.float64]) -> None:
        bad = np.flatnonzero(strange)
        if len(bad):
            ranks = ", ".join(map(str, bad))
            raise TrainingDivergedError(f"loss is NaN or infinite at {self._batch.where}, rank {ranks}")
