"""What is printed when a run has ended, who hears of it, and its exit code."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.launch.early_stop import past_stopping
from jobs.launch.notify import notify
from orchestrator.control.ending import cause_line
from orchestrator.control.prepared import RunOutcome
from orchestrator.evaluation.shot import TITLES
from orchestrator.evaluation.table import to_tables
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.notify import Event
from orchestrator.view.console import plain_console


def print_outcome(outcome: RunOutcome, profile: str = "") -> int:
    """Print how a run ended and what to do next; its exit code. profile: options that choose it, of what is shown."""
    console = plain_console()
    name = outcome.directory.path.name
    if outcome.scores:
        console.print(*to_tables(outcome.scores, f"{TITLES[outcome.shot]} results of {name}"), sep="\n")
        for caveat in outcome.caveats:
            console.print(f"{name}: {caveat}", highlight=False, soft_wrap=True)
    if outcome.cause:
        console.print(f"{outcome.status}: {outcome.cause}", highlight=False, soft_wrap=True)
    if not outcome.is_kept:
        mend = f"free some space, then wavetrain sync {name}{profile}"
        text = f"{outcome.status}, but {outcome.directory.state} does not say so; {mend}"
        console.print(text, highlight=False, soft_wrap=True)
    if outcome.status == "FINISHED":
        console.print(f"tables, weights and events: {outcome.directory.path}", highlight=False, soft_wrap=True)
        look = f"look at it in MLflow:        wavetrain ui{profile}"
        bring = f"bring it to MLflow:          wavetrain sync {name}{profile}"
        console.print(bring if outcome.is_offline else look, highlight=False)
    if outcome.status == "KILLED":
        return 128 + (outcome.signal or 2)
    return 0 if outcome.status == "FINISHED" and outcome.is_kept else 1


def notify_end(outcome: RunOutcome, profile: Profile) -> None:
    """Send the notice of a run that has ended; who pressed Ctrl-C or cancelled it knows it."""
    event: Event | None = "finished" if outcome.status == "FINISHED" else "failed"
    if outcome.status == "KILLED":
        event = "preempted" if outcome.signal == signal.SIGTERM else None
    if event is not None:
        notify(profile, outcome.directory, event, outcome.cause, warn)


@contextmanager
def failure_noticed(profile: Profile, directory: RunDirectory, is_begun: Callable[[], bool]) -> Iterator[None]:
    """Send the notice of an error that ends a run; none where the run has not begun, and a person reads the refusal.

    However the run ends, SIGTERM comes too late from then on.
    """
    try:
        try:
            yield
        finally:
            past_stopping()
    except Exception as error:
        if is_begun():
            notify(profile, directory, "failed", cause_line(error), warn)
        raise


def warn(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"wavetrain: {text}\n")
    sys.stderr.flush()
