"""The runs of a study: which of them are finished, and training one of them in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from channels.files import write_json
from jobs.launch.finished import is_finished
from jobs.launch.sweep import mark_child
from jobs.studies.imported import Imported
from jobs.studies.spec import Child
from orchestrator.run.folder import RunDirectory


class ChildFailedError(RuntimeError):
    """A run of a study did not finish. code: exit code of its process."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"run {name} did not finish; the same command goes on with it")
        self.code = code


def waiting_children(children: Sequence[Child], runs: Path, imported: Imported | None = None) -> list[Child]:
    """Those that are to be made. runs: the folder of the runs. imported: channels that a source may have changed.

    Raises:
        UserError: a finished run of another study has the name of one.
    """
    content = None if imported is None else imported.fingerprint
    mend = "give the study another --name"
    waiting = []
    for child in children:
        of_source = imported is not None and child.job.data.store == imported.store.absolute()
        directory = RunDirectory(runs / child.job.name)
        if not is_finished(child.job, directory, mend, content if of_source else None):
            waiting.append(child)
    return waiting


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
