"""Following a run from another process, by what it writes in its folder: on this machine, on Ray or under Slurm."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.launch.job_state import ENDED, JobState, Query
from jobs.launch.run_status import RunStatus, run_status
from orchestrator.run.event_tail import read_tail
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.run.progress import scores_in_words
from orchestrator.view.live import LiveView

POLL_S = 0.5
QUERY_S = 5.0
"""Seconds between two queries of the launcher, which may be slow to answer."""


def watch(directory: RunDirectory, query: Query, view: LiveView) -> RunStatus | None:
    """Show a run until it ends; its last status, or None where the person left with Ctrl-C (the run goes on)."""
    try:
        return _follow(directory, query, view)
    except KeyboardInterrupt:
        return None
    finally:
        view.close()


def watch_changes(directory: RunDirectory, query: Query) -> Iterator[RunStatus]:
    """The status of a run now, and again whenever it is another one, until the run has ended."""
    seldom = _Seldom(query)
    shown: RunStatus | None = None
    while shown is None or shown.state not in ENDED:
        if shown is not None:
            time.sleep(POLL_S)
        status = run_status(directory, seldom)
        if status != shown:
            yield status
        shown = status


class _Seldom:
    """A query of one job whose answer is used for a while."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._asked_s = float("-inf")
        self._answer: JobState | None = None

    def __call__(self, submission: Mapping[str, Any]) -> JobState | None:
        """As the query."""
        if time.monotonic() - self._asked_s >= QUERY_S:
            self._answer, self._asked_s = self._query(submission), time.monotonic()
        return self._answer


def _follow(directory: RunDirectory, query: Query, view: LiveView) -> RunStatus:
    record = directory.read_state()
    events, offset = read_tail(directory.events)
    view.update(events, quiet=True)
    scores, scores_offset = read_events(directory.scores)
    view.update(scores[-1:], quiet=True)
    _say_scores(scores[-1:], view)
    view.progress.attempts = max(view.progress.attempts, int(record.get("attempts", 0)))
    queried, status, own = float("-inf"), None, None
    while True:
        record = directory.read_state()
        if status is None or time.monotonic() - queried >= QUERY_S or record.get("status") != own:
            queried, own = time.monotonic(), record.get("status")
            status = _show(run_status(directory, query), view)
        events, offset = read_events(directory.events, offset)
        view.update(events)
        scores, scores_offset = read_events(directory.scores, scores_offset)
        view.update(scores)
        _say_scores(scores, view)
        if status.state in ENDED:
            return status
        time.sleep(POLL_S)


def _say_scores(events: Sequence[Mapping[str, Any]], view: LiveView) -> None:
    """A line for every model that was scored beside the training."""
    for event in events:
        if words := scores_in_words(event["metrics"]):
            view.say(f"step {event['step']}: {words}")


def _show(status: RunStatus, view: LiveView) -> RunStatus:
    """Put a status beside the title, and on a line of its own where it is new."""
    text = f"{status.state} ({status.reason})" if status.reason else status.state
    if text != view.state:
        view.say(f"run {status.name}: {text}")
    view.state = text
    return status
