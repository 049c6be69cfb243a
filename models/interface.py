"""What the orchestrator needs of a model: a pure specification, tokens, batches and loss sums.

A model comes in two parts. Its :class:`ModelSpec` is a small picklable object that knows every length and count without
building a network, so that a plan can be made on a laptop; ``build`` then makes the :class:`PretrainingModel`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channels.errors import UserError

Shape = tuple[int, int, int]
"""Scale of a stored sample: slots T, subcarriers K, antennas A."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Samples of one scale, patched.

    values: float32 [n, L, D], real parts then imaginary parts of a patch; filled elements are zero.
    elements: bool [L, D], False where a partial patch was filled up; None if every element is real.
    grid: blocks along (slots, subcarriers, antennas); their product is L (a class token is not counted).
    """

    values: NDArray[np.float32]
    elements: NDArray[np.bool_] | None
    grid: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A padded batch of one variant (granularity), all tensors on one device.

    tokens: float32 [B, L, D], zero in padding. elements: bool [B, L, D] or None, False for filled elements of partial
    patches (padding included). lengths: int64 [B]. grid: int64 [B, 3]. keys: int64 [B], one stable key a sample, from
    which masks are drawn. weight: float32 [B], 0 for fillers. variant: the granularity of every sample in the batch.
    grids: the distinct grids among the samples (or more), known on the host so that sizing tensors does not wait for
    the device; None makes the model read ``grid``. task_weight: float32 [tasks, B], factors of the errors of a sample's
    masked tokens; None for ``weight`` in every task.
    """

    tokens: Tensor
    elements: Tensor | None
    lengths: Tensor
    grid: Tensor
    keys: Tensor
    weight: Tensor
    variant: int
    grids: tuple[tuple[int, int, int], ...] | None = None
    task_weight: Tensor | None = None

    @property
    def task_weights(self) -> Tensor:
        """Float32 [tasks, B], or [1, B] for the same in every task."""
        return self.weight[None] if self.task_weight is None else self.task_weight

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TokenBatch":
        """The same batch on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TokenBatch":
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "TokenBatch":
        return replace(
            self,
            tokens=change(self.tokens),
            elements=None if self.elements is None else change(self.elements),
            lengths=change(self.lengths),
            grid=change(self.grid),
            keys=change(self.keys),
            weight=change(self.weight),
            task_weight=None if self.task_weight is None else change(self.task_weight),
        )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Samples of one variant laid end to end, nothing padded; all tensors on one device.

    tokens: float32 [N, D]. elements: bool [N, D] or None, False for filled elements of partial patches. grid: int64
    [B, 3], one a sample, in the order of the samples. grids: runs of samples of one grid as (grid, samples), in the
    same order, known on the host: lengths and counts are read from them, so that no size waits for the device. keys,
    weight, variant, task_weight: as of ``TokenBatch``.
    """

    tokens: Tensor
    elements: Tensor | None
    grid: Tensor
    grids: tuple[tuple[tuple[int, int, int], int], ...]
    keys: Tensor
    weight: Tensor
    variant: int
    task_weight: Tensor | None = None

    @property
    def task_weights(self) -> Tensor:
        """Float32 [tasks, B], or [1, B] for the same in every task."""
        return self.weight[None] if self.task_weight is None else self.task_weight

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """The same batch on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedBatch":
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "PackedBatch":
        return replace(
            self,
            tokens=change(self.tokens),
            elements=None if self.elements is None else change(self.elements),
            grid=change(self.grid),
            keys=change(self.keys),
            weight=change(self.weight),
            task_weight=None if self.task_weight is None else change(self.task_weight),
        )


@dataclass(frozen=True, slots=True)
class MaskDraw:
    """Where masks come from: with a sample's key this pair decides its mask, whatever batch or rank it is in."""

    seed: int
    epoch: int


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """One column of the zero-shot table: its name and the variant (granularity) the samples are patched with."""

    name: str
    variant: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted masked tokens. values: float32 [B, L, D]; masked: bool [B, L], valid tokens to be scored.

    Of a packed batch: [N, D] and [N]; values are then zero where nothing is masked.
    """

    values: Tensor
    masked: Tensor


@dataclass(frozen=True, slots=True)
class Embedding:
    """What an encoder makes of a batch of which nothing is masked.

    class_token: float32 [B, width], None where the model has none. patches: float32 [B, L, width] in the order of a
    sample's tokens, zero behind its last one. valid: bool [B, L], False there.
    """

    class_token: Tensor | None
    patches: Tensor
    valid: Tensor


class PretrainingModel(nn.Module):
    """A network that turns a batch into one weighted loss sum a task."""

    def forward(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
        """Sums over the batch, float32 [tasks], of each sample's errors: its ``task_weights`` times the sum over its
        masked tokens of the mean squared error over a token's real elements.

        The caller divides: with plain weights by the sum of ``ModelSpec.target_tokens`` over the whole global batch. A
        packed batch comes only to models whose specification ``packs``.
        """
        raise NotImplementedError

    def predict(self, batch: TokenBatch | PackedBatch, task: str, seed: int) -> Prediction:
        """Predictions of one evaluation task; its masks depend on (seed, key) only."""
        raise NotImplementedError

    def encode(self, batch: TokenBatch | PackedBatch) -> Embedding:
        """Embeddings of whole samples, for other tasks than the model was trained on; gradients reach the weights.

        A sample's embedding does not depend on the batch it is in. Keys and weights of the batch are not read.

        Raises:
            UserError: the model has no encoder.
        """
        mend = "take a model with one: hetercsi, wifo, wimamba, lwm, or raw for the channel itself"
        raise UserError(f"{type(self).__name__} has no encoder, so it gives no embeddings", where="model", mend=mend)

    def encoder_layers(self) -> Sequence[nn.Module]:
        """The layers that ``encode`` runs, first to last; empty where none can be trained on."""
        return ()

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Beginnings of the names of the parameters of each layer, from the input to the output; every parameter has
        one. They are what ``train.layer_lr_decay`` counts; a model that names none cannot be trained with it.
        """
        return ()


class ModelSpec(Protocol):
    """Everything about a model that can be known without building it."""

    @property
    def name(self) -> str:
        """Name in the registry, e.g. ``hetercsi``."""

    @property
    def variants(self) -> tuple[int, ...]:
        """Granularities the model trains on; a batch holds one of them."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the entries of ``forward``'s result."""

    @property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """Columns of the zero-shot table."""

    @property
    def packs(self) -> bool:
        """Whether the network also takes packed batches."""

    @property
    def keeps_float32(self) -> bool:
        """Whether some weights lose what they are for in bfloat16, so that only mixed precision trains the model."""

    def samples_per_stored(self, shape: Shape) -> int:
        """Training samples that one stored sample of scale (T, K, A) yields: 1, or T for models of single snapshots."""

    def length(self, shape: Shape, variant: int) -> int:
        """Tokens of one training sample, class token included. Raises UserError for a variant it lacks."""

    def target_tokens(self, shape: Shape, variant: int) -> tuple[int, ...]:
        """Masked tokens a training sample contributes to each task, in the order of ``tasks``."""

    def reference(self, name: str, task: EvaluationTask, batch: TokenBatch, masked: Tensor) -> Tensor:
        """Tokens [B, L, D] as a training-free prediction (models.references) has the masked ones."""

    def tokenise(self, channels: NDArray[np.complex64], variant: int) -> Tokens:
        """Patches of complex64 [n, T, K, A]; T is 1 for a model of single snapshots."""

    def grid(self, shape: Shape, variant: int) -> tuple[int, int, int]:
        """Blocks of one training sample of scale (T, K, A), as ``tokenise`` gives them. Raises UserError as it does."""

    def patch(self, channels: Tensor, variant: int) -> Tensor:
        """The values of ``tokenise`` on the channels' own device, to the last bit: float32 [n, L, D] of complex64
        [n, T, K, A]. Nothing is checked and nothing waits for the device."""

    def build(self, seed: int) -> PretrainingModel:
        """The network, its weights drawn from the seed (the global generator is left as it was)."""

    def check(self, device: str) -> None:
        """Raises UserError where the model cannot compute on a device type (``cpu``, ``cuda``) of this machine."""

    def notes(self, device: str, packed: bool) -> tuple[str, ...]:
        """What was chosen for a device type and kind of batch, one line each for the start of a run's log."""

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Floating-point operations (2 x multiply-accumulate) of one training forward of one sample, all tasks."""


def caveats(spec: ModelSpec) -> tuple[str, ...]:
    """What its scores must be read with, one line each: the optional property ``caveats`` of a specification."""
    found: tuple[str, ...] = getattr(spec, "caveats", ())
    return found


def collate(parts: Sequence[Tokens], keys: NDArray[np.int64], weight: NDArray[np.float32], variant: int) -> TokenBatch:
    """Pad patched samples, in order, to the longest. keys, weight: [B] with B the samples of all parts together."""
    grids = np.concatenate([np.tile(np.asarray(part.grid, np.int64), (len(part.values), 1)) for part in parts])
    lengths = np.concatenate([np.full(len(part.values), part.values.shape[1], np.int64) for part in parts])
    width = parts[0].values.shape[2]
    tokens = np.zeros((len(lengths), int(lengths.max()), width), np.float32)
    partial = any(part.elements is not None for part in parts)
    elements = np.zeros(tokens.shape, np.bool_) if partial else None
    row = 0
    for part in parts:
        count, length, _ = part.values.shape
        tokens[row : row + count, :length] = part.values
        if elements is not None:
            elements[row : row + count, :length] = True if part.elements is None else part.elements
        row += count
    return TokenBatch(
        tokens=torch.from_numpy(tokens),
        elements=None if elements is None else torch.from_numpy(elements),
        lengths=torch.from_numpy(lengths),
        grid=torch.from_numpy(grids),
        keys=torch.from_numpy(np.ascontiguousarray(keys, np.int64)),
        weight=torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
        variant=variant,
        grids=tuple(sorted({part.grid for part in parts})),
    )
