"""The state of a job in Slurm: from squeue while it knows the job, from sacct or scontrol after that."""

import re
import subprocess
from collections.abc import Callable, Sequence

from channels.errors import UserError
from jobs.launch.job_state import JobState, State

STATES: dict[str, State] = {
    "PENDING": "PENDING",
    "CONFIGURING": "PENDING",
    "REQUEUED": "PENDING",
    "REQUEUE_FED": "PENDING",
    "REQUEUE_HOLD": "PENDING",
    "RESV_DEL_HOLD": "PENDING",
    "SPECIAL_EXIT": "PENDING",
    "RUNNING": "RUNNING",
    "COMPLETING": "RUNNING",
    "RESIZING": "RUNNING",
    "SIGNALING": "RUNNING",
    "STAGE_OUT": "RUNNING",
    "STOPPED": "RUNNING",
    "SUSPENDED": "RUNNING",
    "COMPLETED": "FINISHED",
    "BOOT_FAIL": "FAILED",
    "DEADLINE": "FAILED",
    "FAILED": "FAILED",
    "LAUNCH_FAILED": "FAILED",
    "NODE_FAIL": "FAILED",
    "OUT_OF_MEMORY": "FAILED",
    "RECONFIG_FAIL": "FAILED",
    "TIMEOUT": "FAILED",
    "CANCELLED": "KILLED",
    "PREEMPTED": "KILLED",
    "REVOKED": "KILLED",
}
"""Slurm's job states. A preempted job that is to go on is in squeue as PENDING, and squeue comes first."""
SILENT = ("None", "Dependency", "")
TIMEOUT_S = 30
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run one of Slurm's programs, for a limited time.

    Raises:
        UserError: it is not installed or does not answer.
    """
    try:
        return subprocess.run(list(command), capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        mend = "run this where Slurm's programs are, e.g. on the login node"
        raise UserError(f"{command[0]} is not installed here", where="slurm", mend=mend) from None
    except subprocess.TimeoutExpired:
        mend = "ask again later: scontrol ping"
        raise UserError(f"{command[0]} does not answer in {TIMEOUT_S} s", where="slurm", mend=mend) from None


def job_state(job_id: str, run: Run = run_command) -> JobState:
    """Ask Slurm for one job."""
    queued = run(["squeue", "--noheader", "--jobs", job_id, "--states=all", "--format=%T|%r|%N"])
    if queued.returncode == 0 and queued.stdout.strip():
        return _state(*_fields(queued.stdout, 3))
    columns = "State,Reason,NodeList,ExitCode"
    recorded = run(["sacct", "-X", "--noheader", "--parsable2", f"--format={columns}", "--jobs", job_id])
    if recorded.returncode == 0 and recorded.stdout.strip():
        state, reason, nodes, code = _fields(recorded.stdout, 4)
        return _state(state, reason, nodes, code)
    return _state_of_record(run(["scontrol", "--oneliner", "show", "job", job_id]))


def _state_of_record(done: "subprocess.CompletedProcess[str]") -> JobState:
    fields = dict(re.findall(r"(\w+)=(\S+)", done.stdout))
    if "JobState" not in fields:
        if "Invalid job id" in done.stderr:
            return JobState("KILLED", "Slurm does not know the job any more")
        said = done.stderr.strip().splitlines()
        return JobState("UNKNOWN", f"Slurm does not answer ({said[0] if said else 'no output'})")
    nodes = fields.get("NodeList", "")
    return _state(fields["JobState"], fields.get("Reason", ""), "" if nodes == "(null)" else nodes, fields["ExitCode"])


def _fields(output: str, count: int) -> list[str]:
    last = output.strip().splitlines()[-1].split("|")
    return (last + [""] * count)[:count]


def _state(name: str, reason: str, nodes: str, code: str = "") -> JobState:
    # sacct writes `CANCELLED by 1000` and may cut a long name short with a plus.
    word = name.split()[0].rstrip("+")
    state: State = STATES.get(word, "UNKNOWN")
    reasons = [] if reason in SILENT else [reason]
    if STATES.get(word) not in ("RUNNING", "FINISHED") and word != state and word not in reasons:
        reasons.insert(0, word)
    if state == "FAILED" and code not in ("", "0:0"):
        reasons.append(f"exit {code}")
    return JobState(state, ", ".join(reasons) or None, nodes or None)
