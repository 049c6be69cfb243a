"""How a worker's attempt ends other than by dying."""

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


def is_fatal(error: BaseException) -> bool:
    """Whether the error's own text says what went wrong, so that no traceback is needed."""
    return isinstance(root_cause(error), UserError | TrainingDivergedError | MicroBatchTooLargeError)


def root_cause(error: BaseException) -> BaseException:
    """The exception inside the wrappers in which Ray Train and Ray hand over what a worker raised."""
    for wrapper in ("_base_exc", "health_check_failure", "controller_failure", "cause"):
        wrapped = getattr(error, wrapper, None)
        if isinstance(wrapped, BaseException):
            return root_cause(wrapped)
    return error
