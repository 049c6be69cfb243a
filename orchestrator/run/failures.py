"""How a worker's attempt ends other than by dying."""

import re
from typing import Any

from channels.errors import UserError

OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "bad alloc",
    "bad_alloc",
    "alloc_failed",
    "could not create a primitive",
)
"""What torch, cuBLAS and oneDNN say, inside a RuntimeError, where an allocation failed."""
BROKEN_DEVICE = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "over nvlink or a hardware error",
    "gpu is lost",
    "fallen off the bus",
    "no cuda-capable device is detected",
)
"""What CUDA says of hardware that fails (texts of cudaGetErrorString, CUDA runtime API, and of the driver's log).

A device that is busy is none of them: another process, perhaps a rank of the last attempt, still holds it.
"""
BROKEN_COLLECTIVE = (
    "nccl error",
    "nccl communicator",
    "ncclremoteerror",
    "remote process exited",
    "collective operation timeout",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "socket timeout",
    "failed to recv, got 0 bytes",
    "pair closure",
    "ms for recv operation",
    "ms for send operation",
    "gloo/transport",
)
"""What torch, NCCL and gloo say, inside a RuntimeError, where another rank is gone."""


class RankError(RuntimeError):
    """What a rank raised, with what its own text does not say. time: seconds since 1970. host: of the rank's node."""

    def __init__(self, cause: BaseException, time: float, host: str) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause, self.time, self.host = cause, time, host

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cause, self.time, self.host)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite, or jumped: which step, rank and bucket. step: optimizer step, from 0."""

    def __init__(self, cause: str, step: int | None = None) -> None:
        super().__init__(cause)
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.step)


class MicroBatchTooLargeError(RuntimeError):
    """The memory of a rank did not suffice for a micro-batch of a bucket.

    fitting: samples to try instead; 0: none is left. bucket: number in the plan.
    """

    def __init__(self, cause: str, fitting: int, bucket: int) -> None:
        super().__init__(cause)
        self.fitting, self.bucket = fitting, bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.fitting, self.bucket)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, torch or Ray means that the memory of a process or a node did not suffice."""
    if isinstance(error, MemoryError | MicroBatchTooLargeError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def is_broken_device(error: BaseException) -> bool:
    """Whether an exception means that the hardware of a GPU fails."""
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in BROKEN_DEVICE)


def is_broken_collective(error: BaseException) -> bool:
    """Whether it is what a rank sees when another one is gone."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in BROKEN_COLLECTIVE)


def is_fatal(error: BaseException) -> bool:
    """Whether the error's own text says what went wrong, so that no traceback is needed."""
    return isinstance(root_cause(error), UserError | TrainingDivergedError | MicroBatchTooLargeError)


def find_rank_error(error: BaseException) -> RankError | None:
    """The rank's own record inside the wrappers of Ray; None where a rank could not make one, as it died."""
    if isinstance(error, RankError):
        return error
    wrapped = _wrapped(error)
    return None if wrapped is None else find_rank_error(wrapped)


def root_cause(error: BaseException) -> BaseException:
    """The exception inside the wrappers in which Ray Train and Ray hand over what a worker raised."""
    wrapped = _wrapped(error)
    return error if wrapped is None else root_cause(wrapped)


def _wrapped(error: BaseException) -> BaseException | None:
    found = (
        getattr(error, name, None) for name in ("_base_exc", "health_check_failure", "controller_failure", "cause")
    )
    return next((wrapped for wrapped in found if isinstance(wrapped, BaseException)), None)


def in_one_line(error: BaseException) -> str:
    """What went wrong, without colours. Ray hands over tracebacks that begin with the task and end with the error."""
    cause = root_cause(error)
    lines = [line.strip() for line in _COLOUR.sub("", str(cause)).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    return lines[-1] if lines[0].startswith("ray::") else lines[0]
