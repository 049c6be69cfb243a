"""Controller of a submitted run, on a Ray that somebody else started: ``python -m jobs.launch.attempt RUN ADDRESS``.

With ``--after-word`` it begins when its standard input says so.
"""

import importlib
import signal
import sys
from pathlib import Path

from channels.errors import UserError
from jobs.launch.attempt_word import AFTER_WORD, wait_for_word
from jobs.launch.collector import rare_collection
from jobs.launch.early_stop import stopped_by_sigterm
from jobs.launch.folder import LaunchFolder
from jobs.launch.outcome import failure_noticed, notify_end, print_outcome
from orchestrator.control.controller import run_job
from orchestrator.control.goodput_book import process_began_s
from orchestrator.run.folder import RunDirectory
from orchestrator.view.live import LiveView

NEEDED = ("orchestrator.control.ray_train.trainer", "mlflow.store.tracking.sqlalchemy_store")
"""Ray Train and MLflow, which a run imports for seconds where it first uses them."""


def main(run: str, address: str) -> int:
    """Train and evaluate on the Ray that answers at an address; the exit code.

    A run that is finished is a success: Slurm restarts a job when it loses contact with the first node, while that node
    may go on to the end.
    """
    launch = LaunchFolder(RunDirectory(Path(run)))
    try:
        profile = launch.read_profile().model_copy(update={"ray_address": address})
        job = launch.read_job()
        view = LiveView(every_s=job.tracking.print_every_s)
        # Under Slurm the node says how its attempt ended: it knows whether another one follows.
        is_last = profile.launcher != "slurm"
        with failure_noticed(profile, launch.run, lambda: is_last and not _is_finished(launch.run)):
            outcome = run_job(job, profile, view, profile.time_limits.lock_s, began_s=process_began_s())
        code = print_outcome(outcome)
        if is_last:
            notify_end(outcome, profile)
        return code
    except UserError as error:
        if _is_finished(launch.run):
            sys.stderr.write("wavetrain: an earlier attempt has finished the run\n")
            return 0
        sys.stderr.write(f"wavetrain: {error}\n")
        return 2


def _is_finished(run: RunDirectory) -> bool:
    return run.read_state().get("status") == "FINISHED"


def main_after_word(run: str, address: str, *after: str) -> int:
    """:func:`main`, at once or after the word; the exit code, that of a stop where the word does not come."""
    if after == (AFTER_WORD,):
        for module in NEEDED:
            importlib.import_module(module)
        if not wait_for_word():
            return 128 + signal.SIGTERM
    return main(run, address)


if __name__ == "__main__":
    with stopped_by_sigterm(), rare_collection():
        sys.exit(main_after_word(*sys.argv[1:]))
