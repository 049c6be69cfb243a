"""Ends of a training run that no restart can mend."""

from channels.errors import UserError


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite: which step, rank and bucket."""


def is_fatal(error: BaseException) -> bool:
    """Whether trying again would fail in the same way: bad input or a diverged loss."""
    return isinstance(root_cause(error), UserError | TrainingDivergedError)


def root_cause(error: BaseException) -> BaseException:
    """The exception inside the wrappers in which Ray Train and Ray hand over what a worker raised."""
    wrapped = getattr(error, "_base_exc", None) or getattr(error, "cause", None)
    return root_cause(wrapped) if isinstance(wrapped, BaseException) else error
