"""After a failure: what it was, whether its budget allows another attempt, and how long to wait before it."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from channels.errors import UserError
from orchestrator.run.adjustments import Adjustments
from orchestrator.run.failures import (
    MicroBatchTooLargeError,
    TrainingDivergedError,
    find_rank_error,
    is_broken_collective,
    is_broken_device,
    is_out_of_memory,
    root_cause,
)
from orchestrator.spec.failures import FailuresSection

CAUSE_LENGTH = 400
MOST_DOUBLINGS = 30


class Kind(StrEnum):
    """What fails in different ways, each with a budget of its own."""

    BAD_DATA = "bad_data"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    PREEMPTION = "preemption"
    DEVICE = "device"
    HANG = "hang"
    WORKER = "worker"


MAY_BE_DEVICE = frozenset({Kind.DEVICE, Kind.HANG, Kind.WORKER})
"""Failures that a broken device may have caused."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt ended. rank: of the worker that failed first, as far as that is known; node: its machine."""

    kind: Kind
    cause: str
    rank: int | None
    time: float
    """Seconds since 1970."""
    node: str | None = None
    bad_nodes: Mapping[str, str] = field(default_factory=dict)
    """Nodes with a broken device, and what is wrong there."""

    def to_json(self) -> dict[str, Any]:
        """For ``state.json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether there is another attempt, after how many seconds, and what is different in it."""

    retry: bool
    wait_s: float
    adjustments: Adjustments


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one rank reported. time: seconds since 1970, infinite where it died without a word."""

    rank: int
    error: BaseException
    kind: Kind
    time: float
    host: str | None

    @property
    def is_wake(self) -> bool:
        """Whether it is what a rank sees when another one is gone."""
        return self.kind is Kind.WORKER and is_broken_collective(self.error)

    @property
    def place(self) -> tuple[Any, ...]:
        """The first in this order explains the others."""
        return self.is_wake, self.time, list(Kind).index(self.kind), self.rank


def classify(failures: Mapping[int, BaseException], hung: Sequence[int] = ()) -> tuple[Failure, BaseException]:
    """The failure that explains the others, and its exception.

    failures: of each rank that reported one (-1: of no rank). When one rank fails, the collective operations of the
    others break in its wake, and those that broke explain nothing. Of the rest the first in time counts; a rank that
    died has no time, so what another one had to say comes before it. A broken device that every one of several nodes
    reports is none: they have something else in common. hung: ranks that wrote down their stacks in this attempt.
    """
    entries = [_entry(rank, error) for rank, error in sorted(failures.items())]
    assert entries
    first = min(entries, key=lambda entry: entry.place)
    # What all ranks raise at once, each by its own clock, is the lowest rank's.
    same = [entry for entry in entries if (entry.kind, str(entry.error)) == (first.kind, str(first.error))]
    found = min(same, key=lambda entry: entry.rank) if len(same) == len(entries) else first
    kind, error = found.kind, found.error
    text = " ".join(str(error).split()) or type(error).__name__
    if kind is Kind.DEVICE and _on_every_node(entries):
        kind, text = Kind.WORKER, f"on every node, so no device is blamed: {text}"
    if hung and kind is Kind.WORKER:
        kind, text = Kind.HANG, f"no step for too long, seen by rank {', '.join(map(str, hung))}; {text}"
    cause = (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:CAUSE_LENGTH]
    rank = found.rank if found.rank >= 0 else None
    bad = {found.host: cause} if kind is Kind.DEVICE and found.host is not None else {}
    return Failure(kind, cause, rank, time.time(), found.host, bad), error


def blame_devices(failure: Failure, bad_nodes: Mapping[str, str]) -> Failure:
    """The failure as one of the devices that a look at all nodes found broken. bad_nodes: what is wrong, by node."""
    if not bad_nodes or failure.kind not in MAY_BE_DEVICE:
        return failure
    found = {**bad_nodes, **failure.bad_nodes}
    broken = "; ".join(f"{node}: {problem}" for node, problem in bad_nodes.items())
    node = failure.node if failure.node in found else next(iter(bad_nodes))
    rank = failure.rank if failure.node == node else None
    return replace(
        failure, kind=Kind.DEVICE, cause=f"{broken}; {failure.cause}"[:CAUSE_LENGTH], rank=rank, node=node,
        bad_nodes=found,
    )  # fmt: skip


def _on_every_node(entries: Sequence[_Entry]) -> bool:
    """Whether each of several nodes reports a broken device."""
    nodes = {entry.host for entry in entries}
    return len(nodes) > 1 and nodes == {entry.host for entry in entries if entry.kind is Kind.DEVICE}


def _entry(rank: int, error: BaseException) -> _Entry:
    record, cause = find_rank_error(error), root_cause(error)
    kind = _kind(cause)
    if record is not None:
        return _Entry(rank, cause, kind, record.time, record.host)
    # That a node was taken back explains whatever happened on it and elsewhere.
    return _Entry(rank, cause, kind, -math.inf if kind is Kind.PREEMPTION else math.inf, None)


def decide(section: FailuresSection, past: Sequence[Kind], error: BaseException, now: Adjustments) -> Decision:
    """What to do after the last of ``past`` failures. now: the adjustments of the attempt that failed."""
    kind = past[-1]
    number = past.count(kind)
    # What fails once starts again at once: most ranks are lost for no reason that lasts.
    wait_s = min(section.backoff_s * 2.0 ** min(number - 2, MOST_DOUBLINGS), section.backoff_cap_s) * (number > 1)
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
    if is_broken_device(error):
        return Kind.DEVICE
    preempted = getattr(error, "preempted", False) or type(error).__name__ == "PreemptionError"
    return Kind.PREEMPTION if preempted else Kind.WORKER
