"""After a failure: what it was, whether its budget allows another attempt, and how long to wait before it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from channels.errors import UserError
from orchestrator.run.adjustments import Adjustments
from orchestrator.run.failures import MicroBatchTooLargeError, TrainingDivergedError, is_out_of_memory, root_cause
from orchestrator.spec.job import FailuresSection

CAUSE_LENGTH = 400
MOST_DOUBLINGS = 30


class Kind(StrEnum):
    """What fails in different ways, each with a budget of its own."""

    BAD_DATA = "bad_data"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    PREEMPTION = "preemption"
    HANG = "hang"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt ended. rank: of the worker that failed first, as far as that is known; node: its machine."""

    kind: Kind
    cause: str
    rank: int | None
    time: float
    """Seconds since 1970."""
    node: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``state.json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether there is another attempt, after how many seconds, and what is different in it."""

    retry: bool
    wait_s: float
    adjustments: Adjustments


def classify(failures: Mapping[int, BaseException], hung: Sequence[int] = ()) -> tuple[Failure, BaseException]:
    """The failure that explains the others, and its exception.

    failures: of each rank that reported one (-1: of no rank). When one rank dies, the others fail in its wake, so the
    kind that explains most wins (the first in ``Kind``) and then the lowest rank. hung: ranks that wrote down their
    stacks in this attempt.
    """
    found = [(_kind(root_cause(error)), rank, root_cause(error)) for rank, error in sorted(failures.items())]
    assert found
    order = list(Kind)
    kind, rank, error = min(found, key=lambda entry: (order.index(entry[0]), _is_wake(entry[2])))
    text = " ".join(str(error).split()) or type(error).__name__
    if hung and kind is Kind.WORKER:
        kind, text = Kind.HANG, f"no step for too long, seen by rank {', '.join(map(str, hung))}; {text}"
    cause = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    return Failure(kind, cause[:CAUSE_LENGTH], rank if rank >= 0 else None, time.time()), error


def decide(section: FailuresSection, past: Sequence[Kind], error: BaseException, now: Adjustments) -> Decision:
    """What to do after the last of ``past`` failures. now: the adjustments of the attempt that failed."""
    kind = past[-1]
    number = past.count(kind)
    wait_s = min(section.backoff_s * 2.0 ** min(number - 1, MOST_DOUBLINGS), section.backoff_cap_s)
    retry = number <= section.budget(kind)
    adjustments = now
    if isinstance(error, TrainingDivergedError) and error.step is not None:
        adjustments = replace(now, skipped_steps=tuple(sorted({*now.skipped_steps, error.step})))
    if isinstance(error, MicroBatchTooLargeError):
        adjustments = replace(now, micro_batch={**now.micro_batch, error.bucket: error.fitting})
        retry = retry and error.fitting >= 1
    return Decision(retry, wait_s, adjustments)


def describe(failure: Mapping[str, Any]) -> str:
    """One failure in a line: kind, rank, machine and cause."""
    rank = "" if failure["rank"] is None else f" of rank {failure['rank']}"
    node = "" if failure["node"] is None else f" on {failure['node']}"
    return f"{failure['kind']}{rank}{node}: {failure['cause']}"


def describe_all(failures: Sequence[Mapping[str, Any]]) -> str:
    """The failures of all attempts in one line."""
    return "; ".join(f"({number}) {describe(failure)}" for number, failure in enumerate(failures, start=1))


def _kind(error: BaseException) -> Kind:
    if isinstance(error, UserError):
        return Kind.BAD_DATA
    if isinstance(error, TrainingDivergedError):
        return Kind.DIVERGED
    if is_out_of_memory(error):
        return Kind.OUT_OF_MEMORY
    preempted = getattr(error, "preempted", False) or type(error).__name__ == "PreemptionError"
    return Kind.PREEMPTION if preempted else Kind.WORKER


def _is_wake(error: BaseException) -> bool:
    """Whether it is what a rank sees when another one is gone: a collective that breaks."""
    return isinstance(error, RuntimeError) and not type(error).__module__.startswith("ray.")
