"""A worker group while it trains: its events and failures are followed, a stop is passed on, epochs are scored."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.control.failure_policy import describe, describe_all
from orchestrator.control.goodput_book import GoodputBook
from orchestrator.control.provenance import attempt_tags
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.outbox import Outbox
from orchestrator.view.live import LiveView

POLL_S = 0.3
WITHOUT_RANKS_S = 20.0
"""For which a stop waits for ranks of which none are there or on their way."""


class WorkerGroup(Protocol):
    """Ranks that train, started again after failures by themselves, until they end for good."""

    def start(self) -> None:
        """Begin, and return at once."""

    def is_alive(self) -> bool:
        """Whether they have not ended yet."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, at most so many seconds."""

    def reraise(self) -> None:
        """Raise what ended them; return if nothing did."""


class EpochScoring(Protocol):
    """Scores of epochs that are found beside the training."""

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Go on with it for at most so many seconds; whether there is anything to do."""

    def cancel(self) -> None:
        """Give up what is not done."""


class Follower:
    """Reads the files that ranks and failure policy append to: counts attempts, keeps failures, shows all of it."""

    def __init__(self, directory: RunDirectory, outbox: Outbox, view: LiveView) -> None:
        self._directory, self._outbox, self._view = directory, outbox, view
        self._goodput = GoodputBook(directory, outbox)
        begun, self._events_offset = read_events(directory.events)
        # A controller that was killed may not have taken in the last of them, nor the last failures.
        self.attempts = sum(event["kind"] == "attempt" for event in begun)
        self.failures: list[dict[str, Any]] = directory.read_state().get("failures", [])
        recorded, self._failures_offset = read_events(directory.failures)
        if missed := recorded[len(self.failures) :]:
            self.failures += [_with_machine(event["failure"], _machines_at(event["time"], begun)) for event in missed]
            directory.update_state(failures=self.failures)
        self.outcome = "stopped"
        """``finished`` once the ranks have said so."""
        self.last_failure: Mapping[str, Any] | None = None
        """How the attempt failed that no other one follows; None where there is none such since this start."""
        self.left_out: Collection[str] = ()
        """Nodes with a broken device on which nothing of this start is placed any more."""
        self._failures_before = len(self.failures)
        self.has_ranks = False
        """Whether an attempt is under way: its ranks have begun, and have not failed."""
        self._has_begun = False
        self._machines: Sequence[str] = ()
        earlier, self._scores_offset = read_events(directory.scores)
        view.update(earlier[-1:], quiet=True)

    def follow(self) -> None:
        """Take in what is new."""
        events, self._events_offset = read_events(self._directory.events, self._events_offset)
        for event in events:
            if event["kind"] == "attempt":
                self._begin_attempt(event)
            elif event["kind"] == "end":
                self.outcome = event["outcome"]
        self._view.update(events)
        scores, self._scores_offset = read_events(self._directory.scores, self._scores_offset)
        self._view.update(scores)
        failures, self._failures_offset = read_events(self._directory.failures, self._failures_offset)
        for event in failures:
            self._take_failure(event)
        self._goodput.follow()

    def close(self) -> None:
        """The run ends: how it has spent its time is written down."""
        self._goodput.close()

    def can_save(self) -> bool:
        """Whether there are ranks that train, or such on their way after others have trained since this start.

        Those have the newest state in memory, and save it before they end. Imports, the rendezvous and loading may take
        minutes, for which the settings have limits of their own.
        """
        return self.has_ranks or (self._has_begun and self._directory.placed.exists())

    def all_causes(self, cause: str) -> str:
        """The last cause, and where it was not the first one since this start, all of them."""
        failures = self.failures[self._failures_before :]
        return f"{cause}; all of them: {describe_all(failures)}" if len(failures) > 1 else cause

    def _begin_attempt(self, event: Mapping[str, Any]) -> None:
        self.attempts += 1
        self.has_ranks = self._has_begun = True
        self._machines = event["rank_machines"]
        self._directory.update_state(attempts=self.attempts)
        self._outbox.tags(attempt_tags(event, self.attempts))

    def _take_failure(self, event: Mapping[str, Any]) -> None:
        failure = _with_machine(event["failure"], self._machines)
        self.failures.append(failure)
        self.last_failure = None if event["retry"] else failure
        self.left_out = event["left_out"].keys()
        self._directory.update_state(failures=self.failures)
        without = f" without {', '.join(self.left_out)}" if self.left_out else ""
        then = f"; again in {event['wait_s']:g} s{without}" if event["retry"] else ""
        # Before its ranks have begun an attempt has no number.
        what = f"attempt {self.attempts}" if self.has_ranks else "the start of the ranks"
        self.has_ranks = False
        self._view.say(f"{what} failed{then}: {describe(failure)}")


def _with_machine(failure: dict[str, Any], machines: Sequence[str]) -> dict[str, Any]:
    """With the name of the machine of its rank. machines: of the ranks of its attempt."""
    rank = failure["rank"]
    known = failure["node"] is None and rank is not None and rank < len(machines)
    return {**failure, "node": machines[rank]} if known else failure


def _machines_at(time: float, events: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Of the ranks of the last attempt that had begun then."""
    begun = [event["rank_machines"] for event in events if event["kind"] == "attempt" and event["time"] <= time]
    return begun[-1] if begun else ()


def see_through(
    group: WorkerGroup,
    scoring: EpochScoring,
    *,
    follow: Callable[[], None],
    is_stopped: Callable[[], bool],
    can_save: Callable[[], bool],
    stop_request: Path,
    view: LiveView,
    without_ranks_s: float = WITHOUT_RANKS_S,
) -> None:
    """Start a worker group and return when it has ended and its epochs are scored.

    follow: takes in what the ranks have written; called a few times a second. is_stopped: whether the run was asked to
    stop. can_save: whether there are ranks, or are to be soon, that have a state to save. stop_request: the file by
    which the ranks learn of a stop. A stop waits for ``without_ranks_s`` where there are none, and none come.

    Raises:
        Exception: what ended the group, if it did not end by itself.
    """
    group.start()
    could_save_s = time.monotonic()
    while group.is_alive():
        group.join(POLL_S)
        follow()
        scoring.poll()
        if is_stopped() and not stop_request.exists():
            stop_request.touch()
            view.say("stopping: a checkpoint is written after the current step (again to interrupt at once)")
        if can_save() or not stop_request.exists():
            could_save_s = time.monotonic()
        elif time.monotonic() - could_save_s > without_ranks_s:
            # Ray Train waits for room without an end, and looks for no request.
            view.say("stopped without ranks: none have begun to train")
            scoring.cancel()
            view.close()
            return
    follow()
    view.close()
    group.reraise()
    while not is_stopped() and scoring.poll(POLL_S):
        pass
    scoring.cancel()
