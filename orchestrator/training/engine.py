"""One optimizer step under DeepSpeed ZeRO: exact normalisation over ranks, micro-batches and fillers."""

import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from models.interface import MaskDraw, PretrainingModel
from models.layers.blocks import checkpoint_activations, compile_blocks
from models.layers.parameters import freeze
from orchestrator.checkpoint.deepspeed_private import around_exchanges, forget_first_step, set_up_deepspeed, support
from orchestrator.monitoring.allocator import allocator_statistics
from orchestrator.monitoring.profiling import optimizing
from orchestrator.monitoring.step_clock import ExchangeClock, StepClock
from orchestrator.optimizer.build import make_optimizer, place_matrices
from orchestrator.optimizer.muon import Muon
from orchestrator.run.signals import SILENCE, Signals
from orchestrator.spec.train import TrainSection
from orchestrator.training.loader import MicroBatch, StepBatch
from orchestrator.training.memory import explained_memory
from orchestrator.training.step_report import StepReport, StepResult

MOST_REDUCED = 50_000_000
"""Most gradient elements that ZeRO reduces at once; DeepSpeed holds a buffer of that size, whatever the model."""


def clips_itself(train: TrainSection) -> bool:
    """Whether DeepSpeed leaves the optimizer as it is, so that we clip: its own way waits for the device."""
    return train.zero_stage == 0 and train.precision != "bf16_pure"


def deepspeed_config(train: TrainSection, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration; batch sizes are ours, so it counts one micro-batch a step.

    parameters: elements of the model. ``bf16`` is mixed precision: weights, gradients, their sums over micro-batches
    and over ranks and the optimizer stay in float32, and torch's autocast computes in bfloat16.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if clips_itself(train) else train.clip_norm,
        "zero_optimization": {
            "stage": train.zero_stage,
            "reduce_bucket_size": reduced_elements(parameters),
            "allgather_bucket_size": reduced_elements(parameters),
            # In stages 1 and 2 the host would wait for the device at the end of every backward pass, and a second
            # buffer of gradients would be held, for a model that is one or two buckets. Stage 3 waits anyway.
            "overlap_comm": train.zero_stage == 3,
        },
        # The host would wait for the check of every gradient; a loss that is not finite ends the run anyway.
        "bf16": {"enabled": train.precision == "bf16_pure", "check_grad_overflow": False},
        "torch_autocast": {
            "enabled": train.precision == "bf16",
            "dtype": "bfloat16",
            # DeepSpeed would reduce the gradients of these in bfloat16.
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
    }


def set_up_cuda(tf32: bool) -> None:
    """How this process uses its GPU."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        # Buckets of many shapes leave memory in pieces of which none fits the next one.
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def reduced_elements(parameters: int) -> int:
    """Gradient elements that ZeRO reduces at once, of which DeepSpeed wants an even number."""
    return min(parameters + parameters % 2, MOST_REDUCED)


class TrainingEngine:
    """A model under DeepSpeed, on one rank."""

    def __init__(
        self, model: PretrainingModel, train: TrainSection, *, device: str, tasks: int, packed: bool = False
    ) -> None:
        """packed: whether batches are laid end to end.

        Raises:
            UserError: parts to freeze that the model does not have, layers that it does not name, or an optimizer
                that has nothing to train in it.
        """
        set_up_deepspeed(device)
        if device == "cuda":
            set_up_cuda(train.tf32)
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
        freeze(model, train.freeze)
        self._frozen = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if not parameter.requires_grad and dist.get_rank() == 0
        }
        """On rank 0, as they were given: the engine may take them apart, or cast them."""
        if train.activation_checkpointing:
            checkpoint_activations(model)
        if train.compile:
            compile_blocks(model, packed)
        optimizer = make_optimizer(model, train, device)
        support(type(optimizer))
        config = deepspeed_config(train, sum(parameter.numel() for parameter in model.parameters()))
        self.deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        forget_first_step(self.deepspeed.optimizer)
        self.device = self.deepspeed.device
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.lag = 1 if self.device.type == "cuda" else 0
        """Steps that may be begun before the report of one is read; where reading waits for nothing, none."""
        self._clock = StepClock(self.device)
        self._exchange = ExchangeClock()
        if self.device.type == "cpu":
            around_exchanges(self._exchange.counted)
        if isinstance(optimizer, Muon):
            place_matrices(
                optimizer, self.deepspeed.optimizer, stage=train.zero_stage, rank=self.rank, device=self.device,
                add_up=self._add_up,
            )  # fmt: skip
        self._tasks = tasks
        self._clip_norm = train.clip_norm if clips_itself(train) else None
        self._reduces_early = train.zero_stage >= 2
        """Whether every micro-batch ends with a reduction, in which a rank waits for the slowest."""

    def step(self, batch: StepBatch, seed: int, lr: float, signals: Signals = SILENCE) -> StepResult:
        """Train on one global batch and wait for what it gave; see :meth:`begin`."""
        return self.begin(batch, seed, lr, signals).read()

    def begin(self, batch: StepBatch, seed: int, lr: float, signals: Signals = SILENCE) -> StepReport:
        """Train on one global batch; with a ``lag`` the host does not wait for it.

        The loss is the mean over tasks of (sum of errors / masked tokens of the global batch), and the gradient is that
        of the loss times the weight of the step, whatever the world size, the micro-batches and the fillers: DeepSpeed
        divides by the world size, so it is put back here.

        Raises:
            MicroBatchTooLargeError: the memory of this rank does not suffice for a micro-batch.
            TrainingDivergedError: on all ranks, if any rank saw a loss that is not finite; no weight has changed then.
                With a ``lag`` it is raised by the report instead, when the weights are spoilt: do not save them before
                every report has been read.
        """
        self._clock.start()
        self._exchange.take()
        engine = self.deepspeed
        for group in engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        scale = torch.from_numpy(task_scale(batch.denominators)).to(self.device, non_blocking=True)
        factor = self.world * batch.weight
        sums = torch.zeros(self._tasks, dtype=torch.float32, device=self.device)
        *early, last = batch.micro_batches
        engine.set_gradient_accumulation_boundary(False)
        own_seconds: float | None = None
        for micro in early:
            with explained_memory(micro, self.rank):
                part = self._forward(micro, seed)
                if self._reduces_early and own_seconds is None:
                    own_seconds = self._clock.stop()
                sums += part.detach()
                engine.backward((part * scale).sum() * factor)
                engine.step()
        engine.set_gradient_accumulation_boundary(True)
        with explained_memory(last, self.rank):
            part = self._forward(last, seed)
            own_seconds = self._clock.stop() if own_seconds is None else own_seconds
            memory = allocator_statistics(self.device)
            with self._exchange.counted():
                report = StepReport((sums + part.detach()) * scale, batch, signals, own_seconds, memory)
            if not self.lag:
                report.check_losses()
            engine.backward((part * scale).sum() * factor)
            with optimizing():
                norm = None if self._clip_norm is None else self._clip(self._clip_norm)
                engine.step()
        exchanged = None if self.lag else self._exchange.take()
        report.add_norm(engine.get_global_grad_norm() if norm is None else norm, exchanged)
        return report

    def _add_up(self, tensor: Tensor) -> None:
        """Sum a tensor over the ranks, in place."""
        with self._exchange.counted():
            dist.all_reduce(tensor)

    def _forward(self, micro: MicroBatch, seed: int) -> Tensor:
        part: Tensor = self.deepspeed(micro.on(self.device), MaskDraw(seed=seed, epoch=micro.epoch))
        return part

    def _clip(self, most: float) -> Tensor:
        """Clip the gradients to a norm, 0 for none; returns their norm before."""
        parameters = list(self.deepspeed.module.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if most:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return norm

    def full_weights(self) -> dict[str, Tensor]:
        """All parameters and buffers in fp32 on the CPU (collective: every rank calls it, rank 0 gets the result)."""
        from deepspeed.utils import safe_get_full_fp32_param

        module = self.deepspeed.module
        weights: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
            if self.rank == 0:
                own = self._frozen.get(name, parameter.data)
                weights[name] = (own if full is None else full).detach().float().cpu().contiguous()
        if self.rank == 0:
            persistent = module.state_dict().keys()
            weights |= {name: buffer.cpu() for name, buffer in module.named_buffers() if name in persistent}
        return weights


def task_scale(denominators: NDArray[np.float64]) -> NDArray[np.float32]:
    """What the sum of each task is multiplied by: 1 / (masked tokens x tasks that have any), float32 [tasks]."""
    present = denominators > 0
    count = max(int(present.sum()), 1)
    return np.where(present, 1.0 / np.maximum(denominators, 1.0) / count, 0.0).astype(np.float32)
