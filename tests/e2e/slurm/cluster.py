"""A real Slurm of four nodes on this machine, with accounting; as root every node has its own network namespace."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).parent / "mini_slurm"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd", "ip")
SBIN = "/usr/sbin:/sbin"
GOING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SIGNALING", "PREEMPTED", "")
"""States of a job that is not over: a preempted one is requeued."""


def missing_programs() -> list[str]:
    """What of Slurm is not installed."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@dataclass(frozen=True)
class SlurmCluster:
    """Commands against the cluster."""

    root: Path
    interface: str
    settings: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What makes Slurm's programs talk to this cluster."""
        return {"SLURM_CONF": str(self.root / "etc" / "slurm.conf"), "PATH": f"{os.environ.get('PATH', '')}:{SBIN}"}

    def run(self, *command: str) -> str:
        """Output of a command of Slurm."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    def bring_up(self) -> None:
        """Start every daemon that is not running."""
        with (self.root / "up.log").open("a") as log:
            command, environment = [SCRIPTS / "up.sh"], os.environ | self.settings
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=300, check=True)

    def kill_node(self, name: str) -> None:
        """As a machine that loses its power: slurmd, the steps and whatever they started are gone at once."""
        number = int((self.root / "run" / f"slurmd-{name}.pid").read_text())
        family = [psutil.Process(number), *psutil.Process(number).children(recursive=True)]
        for process in family:
            # The first one is the namespace's own: most others end with it.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)

    def kill_slurmd(self, name: str) -> None:
        """Slurm's daemon alone: what it started goes on, and nobody can be told to end it."""
        number = int((self.root / "run" / f"slurmd-{name}.pid").read_text())
        (daemon,) = [found for found in psutil.Process(number).children(recursive=True) if found.name() == "slurmd"]
        daemon.kill()

    def state(self, job_id: str) -> str:
        """State of a job in squeue, in sacct once it has left the queue."""
        queued = [line for line in self.run("squeue", "-h", "-t", "all", "-o", "%A %T").splitlines() if line]
        states = dict(line.split() for line in queued)
        return states.get(job_id) or self.run("sacct", "-X", "-n", "-P", "-o", "State", "-j", job_id)

    def node_state(self, name: str) -> str:
        """State of a node in sinfo."""
        return self.run("sinfo", "-h", "-p", "gpu", "-n", name, "-o", "%T")

    def wait_for(self, what: str, reached: Callable[[], bool], timeout_s: float, look_s: float = 0.3) -> None:
        """Look again and again, with a limit; a program of Slurm that fails once on a busy machine is asked again."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if reached():
                    return
            assert time.monotonic() < deadline, f"{what} is not reached in {timeout_s} s"
            time.sleep(look_s)

    def wait_for_end(self, job_id: str, timeout_s: float = 420.0) -> str:
        """The state in which a job ended."""
        found = [""]

        def ended() -> bool:
            found.append(self.state(job_id))
            return found[-1] not in GOING

        self.wait_for(f"end of job {job_id}", ended, timeout_s)
        return found[-1]


def processes_of(job_id: str) -> list[psutil.Process]:
    """Processes that a job's environment marks, and all that descend from them."""
    mark = f"SLURM_JOB_ID={job_id}\0".encode()
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in found:
            # Its parent brought it.
            continue
        try:
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes() + b"\0":
                found |= {child.pid: child for child in (process, *process.children(recursive=True))}
        except (OSError, psutil.Error):
            continue
    return list(found.values())


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Bring the cluster up, and down with everything it started."""
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    number = os.getpid() % 90
    netns = os.geteuid() == 0 and shutil.which("ip") is not None
    settings = {
        "ROOT": str(root), "NODES": "4", "GPUS": "2", "CPUS": "4", "MEM": "8000", "ACCT": "1", "KILLWAIT": "30",
        "MODE": "netns" if netns else "ports", "BASE": str(18_000 + 20 * number),
        "TAG": f"wt{number}n", "NET": f"10.213.{100 + number}",
    }  # fmt: skip
    cluster = SlurmCluster(root, "eth0" if netns else _first_interface(), settings)
    try:
        cluster.bring_up()
        yield cluster
    finally:
        ending = os.environ | settings | {"WIPE": "1"}
        down = subprocess.Popen([SCRIPTS / "down.sh"], env=ending, start_new_session=True)
        try:
            down.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(down.pid, signal.SIGKILL)
            raise


def _first_interface() -> str:
    for name, entries in psutil.net_if_addrs().items():
        if name != "lo" and any(entry.family.name == "AF_INET" for entry in entries):
            return name
    raise AssertionError("this machine has no network interface beside the loopback")
