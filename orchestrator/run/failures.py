"""How a worker's attempt ends other than by dying."""

from typing import Any

from channels.errors import UserError


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite, or jumped: which step, rank and bucket. step: optimizer step, from 0."""

    def __init__(self, cause: str, step: int | None = None) -> None:
        super().__init__(cause)
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.step)


class MicroBatchTooLargeError(RuntimeError):
    """The memory of a rank did not suffice for a micro-batch. fitting: samples to try instead; 0: none is left."""

    def __init__(self, cause: str, fitting: int) -> None:
        super().__init__(cause)
        self.fitting = fitting

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.fitting)


def is_fatal(error: BaseException) -> bool:
    """Whether the error says itself what went wrong, so that no traceback is needed."""
    return isinstance(root_cause(error), UserError | TrainingDivergedError | MicroBatchTooLargeError)


def root_cause(error: BaseException) -> BaseException:
    """The exception inside the wrappers in which Ray Train and Ray hand over what a worker raised."""
    for wrapper in ("_base_exc", "health_check_failure", "controller_failure", "cause"):
        wrapped = getattr(error, wrapper, None)
        if isinstance(wrapped, BaseException):
            return root_cause(wrapped)
    return error
