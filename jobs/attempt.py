"""The controller of a submitted run, on a Ray that somebody else started: ``python -m jobs.attempt RUN ADDRESS``."""

import sys
from pathlib import Path

from channels.errors import UserError
from jobs.launch_folder import LaunchFolder
from jobs.train_command import report
from orchestrator.rundir import RunDirectory

LOCK_PATIENCE_S = 120.0
"""A file server may keep the lock of a node that was lost for a minute or two."""


def main(run: str, address: str) -> int:
    """Train and evaluate on the Ray that answers at an address; the exit code."""
    launch = LaunchFolder(RunDirectory(Path(run)))
    profile = launch.read_profile().model_copy(update={"ray_address": address})
    from orchestrator.controller import run_job
    from orchestrator.live import LiveView

    try:
        job = launch.read_job()
        return report(run_job(job, profile, LiveView(every_s=job.tracking.print_every_s), LOCK_PATIENCE_S))
    except UserError as error:
        sys.stderr.write(f"wavetrain: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
