"""The runs of a study: which of them are finished, and training one of them in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.sweep import mark_child
from jobs.studies.spec import Child
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.yaml_files import differences


class ChildFailedError(RuntimeError):
    """A run of a study did not finish. code: exit code of its process."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"run {name} did not finish; the same command goes on with it")
        self.code = code


def is_finished(child: Child, runs: Path) -> bool:
    """Whether the run need not be made. runs: the folder of the runs.

    Raises:
        UserError: a finished run of another study has the name.
    """
    directory = RunDirectory(runs / child.job.name)
    if directory.read_state().get("status") != "FINISHED":
        return False
    found = differences(directory.read_spec().training_identity, child.job.training_identity)
    if found:
        mend = f"give the study another --name ({found[0]})"
        raise UserError("a finished run of another study has the name", where=str(directory.path), mend=mend)
    return True


def run_child(child: Child, runs: Path, specs: Path, parent: str, options: Sequence[str]) -> None:
    """Train one run to its end, as ``wavetrain train`` does.

    runs, specs: folders of the runs and of the job specs that are written. parent: MLflow's id of the study's run.
    options: of the command line, those that choose the profile.

    Raises:
        ChildFailedError: it did not finish.
    """
    spec = specs / f"{child.job.name}.yaml"
    write_json(spec, child.job.model_dump(mode="json"))
    mark_child(RunDirectory(runs / child.job.name), parent)
    code = _call([sys.executable, "-m", "jobs.run", str(spec), *options])
    if code:
        raise ChildFailedError(child.job.name, code)


def _call(command: Sequence[str]) -> int:
    """Exit code of a command. Ctrl-C reaches it by itself, SIGTERM is handed on: it writes a checkpoint and stops."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    def hand_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
