"""The largest micro-batch of every bucket that fits the device, found by real forward and backward passes.

The passes run in a process of their own, whose memory is limited on a CPU, so that a failed allocation harms nobody.
Optimizer state is held in full and in fp32, as DeepSpeed keeps it on one rank: weights, their gradient and both moments
beside the model's own, and the buffer in which ZeRO gathers gradients. Muon keeps one moment and needs the room of the
other for its direction while it steps. More ranks need less of the optimizer, so what fits here fits there; on a GPU a
reserve is left for what torch's allocator does not see.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from channels.errors import UserError
from models.layers.blocks import checkpoint_activations
from models.registry import make_spec
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.run.failures import is_out_of_memory
from orchestrator.spec.job import JobSpec
from orchestrator.training.engine import reduced_elements
from samplers.schedule import Schedule, Slice

RESERVE = 0.05
"""Share of the memory that is left to fragmentation."""
NCCL_BYTES = 2**30
"""Of a GPU, left to NCCL's buffers, which torch's allocator does not see (an assumption for one communicator)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits in one bucket."""

    bucket: int
    length: int
    """Tokens of its longest sample."""
    micro_batch: int
    """Largest number of samples of one pass that fitted."""
    limited: bool
    """A larger one did not fit; otherwise the slice of one rank is no larger."""


def probe(job: JobSpec, device: str, memory_bytes: int | None) -> list[Fit]:
    """Probe every bucket of a job's plan, the longest first.

    memory_bytes: what a rank may use on a CPU; None: the memory available now, shared among the workers.

    Raises:
        UserError: not even one sample fits.
    """
    request = {"job": job.model_dump(mode="json"), "device": device, "memory_bytes": memory_bytes or _share(job)}
    command = [sys.executable, "-m", "orchestrator.control.probe"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the probe ended with {done.returncode}: {done.stderr[-2000:]}")
    fits = [Fit(**row) for row in json.loads(done.stdout.splitlines()[-1])]
    for fit in fits:
        if fit.micro_batch == 0:
            raise UserError(
                f"not one sample of {fit.length} tokens fits the memory of a rank",
                where=f"bucket {fit.bucket}",
                mend="take a smaller model, a higher ZeRO stage or a device with more memory",
            )
    return fits


def _share(job: JobSpec) -> int:
    import psutil

    return int(psutil.virtual_memory().available * (1 - RESERVE) / job.scale.most)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest size in [0, most] that fits: doubling, then bisection; ``fits`` must be monotone."""
    if most < 1 or not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def probe_here(job: JobSpec, device: str, memory_bytes: int) -> list[Fit]:
    """The probe itself, in the current process."""
    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed)
    schedule = make_schedule(job, catalogue, data.flops)
    try:
        trial = _Trial(job, data, schedule, device, memory_bytes if device == "cpu" else None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # The model alone is too large, or others hold the GPU's memory.
        return [Fit(number, bucket.length, 0, limited=True) for number, bucket in enumerate(schedule.plan.buckets)]
    fits = []
    order = sorted(range(len(schedule.plan.buckets)), key=lambda number: -schedule.plan.buckets[number].length)
    for number in order:
        bucket = schedule.plan.buckets[number]
        most = bucket.batch_size // job.scale.least
        size = largest(lambda size, number=number: trial.fits(number, size), most)  # type: ignore[misc]
        fits.append(Fit(number, bucket.length, size, limited=size < most))
    return sorted(fits, key=lambda fit: fit.bucket)


class _Trial:
    """A model with its optimizer that takes one step on samples of a bucket."""

    def __init__(self, job: JobSpec, data: TrainingData, schedule: Schedule, device: str, limit: int | None) -> None:
        import torch

        self._data, self._schedule, self._device = data, schedule, device
        self._limit = None if limit is None else _data_bytes() + limit
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(usable_share(*torch.cuda.mem_get_info()))
        dtype = torch.bfloat16 if job.train.precision == "bf16_pure" else torch.float32
        self._autocast = torch.autocast(device, torch.bfloat16, enabled=job.train.precision == "bf16")
        self._model = data.spec.build(job.seed).to(device, dtype)
        self._masters = [weight.detach().to(torch.float32, copy=True) for weight in self._model.parameters()]
        elements = sum(master.numel() for master in self._masters)
        # Written, since memory that is not touched is not held on a CPU.
        self._gathered = torch.ones(reduced_elements(elements), dtype=dtype, device=device)
        self._optimizer = torch.optim.AdamW(self._masters, lr=0.0)
        if job.train.activation_checkpointing:
            checkpoint_activations(self._model)

    def fits(self, bucket: int, size: int) -> bool:
        """Whether forward, backward and optimizer step on ``size`` of the bucket's longest samples succeed."""
        import torch

        from models.interface import MaskDraw

        try:
            with _memory_limit(self._limit):
                batch = self._data.batch(self._longest(bucket, size)).to(self._device)
                with self._autocast:
                    losses = self._model(batch, MaskDraw(seed=0, epoch=0))
                losses.sum().backward()
                self._step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            self._model.zero_grad(set_to_none=True)
            if self._device == "cuda":
                torch.cuda.empty_cache()
        return True

    def _step(self) -> None:
        """The optimizer step; weights are not written back, which takes no memory."""
        for master, weight in zip(self._masters, self._model.parameters(), strict=True):
            master.grad = None if weight.grad is None else weight.grad.to(master.dtype, copy=True)
        self._optimizer.step()

    def _longest(self, number: int, size: int) -> Slice:
        bucket = self._schedule.plan.buckets[number]
        source = max((span.source for span in bucket.spans), key=lambda source: self._data.lengths[source])
        count = self._schedule.catalogue[source].count
        return Slice(
            bucket=number,
            variant=bucket.variant,
            source=np.full(size, source, np.int32),
            index=np.arange(size, dtype=np.int64) % count,
            weight=np.ones(size, np.float32),
            epoch=0,
        )


def usable_share(free: int, total: int) -> float:
    """Share of a GPU's memory, of which so many bytes are free, that a rank's tensors may take."""
    return max(free - RESERVE * total - NCCL_BYTES, 0.0) / total


def _data_bytes() -> int:
    """What this process holds now. Counted once: memory that a trial leaves behind must not give the next one more."""
    import psutil

    data: int = psutil.Process().memory_info().data
    return data


@contextmanager
def _memory_limit(most: int | None) -> Iterator[None]:
    """Let this process hold so many bytes; None: no limit of ours."""
    import resource

    if most is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    """Read a request from standard input, print the fits as JSON."""
    request = json.loads(sys.stdin.read())
    fits = probe_here(JobSpec.model_validate(request["job"]), request["device"], request["memory_bytes"])
    sys.stdout.write(json.dumps([asdict(fit) for fit in fits]) + "\n")


if __name__ == "__main__":
    main()
