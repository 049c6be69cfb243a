"""The end of a run: its state is written first, MLflow gets it afterwards."""

from collections.abc import Callable, Mapping
from typing import Any

from channels.errors import UserError
from orchestrator.control.failure_policy import describe
from orchestrator.control.prepared import RunOutcome
from orchestrator.run.failures import is_fatal, root_cause
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.run_tracking import OFFLINE, RunTracking
from orchestrator.view.live import LiveView

NOT_YET = "its end is not delivered yet"


def write_end(outcome: RunOutcome, view: LiveView) -> None:
    """Into ``state.json``, before MLflow is asked, which may take longer than a batch system waits."""
    _record(outcome.directory, view, status=outcome.status, cause=outcome.cause, tracking_problem=NOT_YET)


def deliver_end(
    outcome: RunOutcome, tags: Mapping[str, str], tracking: RunTracking, view: LiveView, is_hurried: Callable[[], bool]
) -> bool:
    """To MLflow, as far as it takes it; whether the run's state says how it ended. is_hurried: do not wait for it."""
    directory = outcome.directory
    problem = tracking.end(tags, outcome.status, is_hurried)
    # Its end once more: the disk may have been full when it was written first.
    is_kept = _record(directory, view, status=outcome.status, cause=outcome.cause, tracking_problem=problem)
    if problem is not None and problem != OFFLINE:
        name = directory.path.name
        view.say(f"MLflow lacks the end of this run ({problem}); when it answers: wavetrain sync {name}")
    for left in (directory.stop_request, directory.placed):
        left.unlink(missing_ok=True)
    return is_kept


def cause_line(error: BaseException, failure: Mapping[str, Any] | None = None) -> str:
    """Why a run failed, on one line. failure: the last one of its attempts, as it is recorded.

    Where Ray speaks for the ranks it lists what all of them raised; the record has what explains the others.
    """
    cause = root_cause(error)
    if failure is not None and type(cause).__module__.startswith("ray."):
        return describe(failure)
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if isinstance(cause, UserError) else f"{type(cause).__name__}: {text}"[:2000]


def reraise(error: BaseException, cause: str) -> None:
    """Raise what a user can mend as a UserError of one line, and a defect as it is; return where the cause says all."""
    if isinstance(root_cause(error), UserError):
        raise UserError(cause) from None
    if not is_fatal(error) and not type(error).__module__.startswith("ray."):
        raise error


def _record(directory: RunDirectory, view: LiveView, **fields: Any) -> bool:
    try:
        directory.update_state(**fields)
    except (OSError, UserError) as error:
        view.say(f"warning: the run's state cannot be written ({error})")
        return False
    return True
