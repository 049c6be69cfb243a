"""The fault matrix: one disturbed run a case, compared with a run that nobody touched."""

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from orchestrator.config import JobSpec
from orchestrator.sample_log import samples_of_epochs
from tests.e2e.leftovers import left_over, look
from tests.e2e.mlflow_server import MlflowServer
from tests.e2e.runs import Place, family, worker_processes
from tests.jobs_for_tests import small_job
from tests.stores import SHAPES, make_random_store

EPOCHS = 8
EVERY_STEPS = 7
TRAIN = 45
SECRET = "sentinel-of-the-fault-matrix"
"""A password in the environment of every run: it must be found nowhere."""
STEP = 16
"""Disturbed once this step is logged; the last checkpoint is then at step 14."""


@dataclass(frozen=True)
class Finding:
    """A line of the table. recovery_s: from the fault to the first step that was not there before it."""

    case: str
    exit_code: int
    seen_once: bool
    loss_difference: float
    """Largest relative difference of any step's loss from the undisturbed run; 0: bit for bit."""
    attempts: int
    repeated_steps: int
    recovery_s: float | None
    left: list[str]
    note: str = ""

    def row(self) -> dict[str, Any]:
        """For the table and the record."""
        return asdict(self)


@dataclass
class Bench:
    """Where the cases run. losses: of the undisturbed run, by step."""

    place: Place
    store: Path
    losses: dict[int, float]

    def job(self, name: str, **sections: Any) -> JobSpec:
        """The job of every case under another name."""
        fields: dict[str, Any] = {
            "train": {"epochs": EPOCHS, "lr": 1e-3, "warmup_epochs": 0.5},
            "checkpoint": {"every_steps": EVERY_STEPS},
            "evaluation": {"samples": 4, "references": False},
            "tracking": {"log_samples": True, "register_model": False, "system_every_s": 0},
            "failures": {"hang_floor_s": 10.0, "hang_factor": 2.0},
        }
        return small_job(self.store, name, **{key: fields.get(key, {}) | sections.get(key, {}) for key in fields})

    def measure(self, case: str, disturb: "Disturb | None" = None, again: bool = False, **sections: Any) -> Finding:
        """Run the case's job, disturb it, and run the same command again where that is asked for."""
        spec = self.place.spec(self.job(case, **sections))
        before = look(self.place.folder)
        recovery, note = None, ""
        process = self.place.start("train", str(spec))
        session = process.pid
        if disturb is not None:
            self.place.wait_for_step(case, STEP, process)
            assert_not_in_arguments(process)
            started = time.monotonic()
            known = len(self.place.events(case))
            note = disturb(self, case, process) or ""
            recovery = self._recovered(case, known, process, started)
        out, error = process.communicate(timeout=300)
        code = process.returncode
        if again:
            # Ranks outlive a killed controller for a moment, and log steps.
            self._settled(session)
            started = time.monotonic()
            done = self.place.start("train", str(spec))
            recovery = self._recovered(case, len(self.place.events(case)), done, started)
            out, error = done.communicate(timeout=300)
            code, session = done.returncode, done.pid
        assert code == 0, f"{case}: exit code {code}\n{out}\n{error}"
        left = left_over(before, self._settled(session)) + self._leaks()
        return self._finding(case, code, recovery, left, note)

    def _leaks(self) -> list[str]:
        files = (path for path in (self.place.folder / "runs").rglob("*") if path.is_file())
        return [f"secret in {path.name}" for path in files if SECRET.encode() in path.read_bytes()]

    def _recovered(self, case: str, known: int, process: "subprocess.Popen[str]", started: float) -> float | None:
        """Seconds until a step beyond all those known is logged; None where the process ends without one."""
        furthest = max((event["step"] for event in self.place.events(case)[:known]), default=0)
        while process.poll() is None:
            if any(event["step"] > furthest for event in self.place.events(case)):
                return time.monotonic() - started
            time.sleep(0.05)
        return None

    def _settled(self, session: int) -> Any:
        deadline = time.monotonic() + 30
        while (machine := look(self.place.folder, session)).processes and time.monotonic() < deadline:
            time.sleep(0.3)
        return machine

    def _finding(self, case: str, code: int, recovery: float | None, left: list[str], note: str) -> Finding:
        steps = [event["step"] for event in self.place.events(case)]
        losses = {event["step"]: event["metrics"]["train/loss"] for event in self.place.events(case)}
        assert losses.keys() == self.losses.keys() or not self.losses
        differences = [abs(losses[step] / loss - 1) for step, loss in self.losses.items()]
        return Finding(
            case=case, exit_code=code, seen_once=seen_once(self.place.directory(case) / "samples"),
            loss_difference=max(differences, default=0.0), attempts=len(self.place.events(case, "attempt")),
            repeated_steps=len(steps) - len(set(steps)), recovery_s=recovery, left=left, note=note,
        )  # fmt: skip


Disturb = Callable[[Bench, str, "subprocess.Popen[str]"], str | None]


def seen_once(folder: Path) -> bool:
    """Every training sample exactly once in every epoch, by the ids that the ranks logged."""
    epochs = samples_of_epochs(folder)
    counts = [Counter(keys) for _, keys in sorted(epochs.items())]
    everything = len(SHAPES) * TRAIN
    return len(counts) == EPOCHS and all(
        len(count) == everything and set(count.values()) == {1} and count.keys() == counts[0].keys() for count in counts
    )


def start_bench(folder: Path) -> tuple[Bench, Finding]:
    """A store, and the run that nobody touches."""
    store = make_random_store(folder / "store", np.random.default_rng(7), train=TRAIN)
    (folder / "cluster.yaml").write_text("default: here\nprofiles: {here: {storage: {runs: runs}}}\n")
    os.environ |= {"WAVETRAIN_TEST_FOLDER": str(folder), "MLFLOW_TRACKING_PASSWORD": SECRET, "AWS_SECRET_KEY": SECRET}
    bench = Bench(Place(folder), store, {})
    undisturbed = bench.measure("undisturbed")
    bench.losses = bench.place.losses("undisturbed")
    return bench, undisturbed


def kill_rank(rank: int) -> Disturb:
    """SIGKILL for one rank."""

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        find_rank(process, rank).kill()

    return disturb


def stop_rank(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
    """SIGSTOP for one rank, which never goes on by itself."""
    find_rank(process, 1).send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 240
    while len(bench.place.events(case, "attempt")) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    stacks = sorted((bench.place.directory(case) / "stacks").glob("rank-*.txt"))
    assert stacks and "Thread" in stacks[0].read_text()
    return f"stacks of {len(stacks)} ranks"


def send(number: signal.Signals) -> Disturb:
    """A signal for the controller."""

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        process.send_signal(number)

    return disturb


def kill_then_damage(change: Callable[[Path], None]) -> Disturb:
    """Kill the controller, and once all is over change the largest file of the newest checkpoint."""

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        process.kill()
        process.communicate()
        bench._settled(process.pid)
        newest = max((bench.place.directory(case) / "checkpoints").glob("step-*"))
        change(max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))

    return disturb


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lock_database(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
    """Lock MLflow's sqlite for ten seconds."""
    import sqlite3

    lock = sqlite3.connect(bench.place.folder / "runs" / "mlflow.db", isolation_level=None, timeout=60)
    lock.execute("BEGIN EXCLUSIVE")
    time.sleep(10)
    lock.execute("ROLLBACK")
    lock.close()
    return "database locked for 10 s"


def slow_rank(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
    """Hold one rank up again and again until a warning names a rank."""
    worker = find_rank(process, 1)
    deadline = time.monotonic() + 240
    while not (warnings := named_slow(bench, case)) and process.poll() is None:
        assert time.monotonic() < deadline
        worker.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    assert warnings, "no rank is named"
    return warnings[0]


def named_slow(bench: Bench, case: str) -> list[str]:
    """Warnings about slow ranks."""
    return [text for event in bench.place.events(case, "warning") if "as the median rank" in (text := event["text"])]


def restart_mlflow(bench: Bench) -> Finding:
    """A run on an MLflow server that is killed and started again."""
    server = MlflowServer(bench.place.folder / "server")

    def restart(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
        server.kill()
        time.sleep(10)
        server.start()
        return "server away for 10 s"

    try:
        found = bench.measure("mlflow-restarted", restart, tracking={"uri": server.uri})
    finally:
        server.kill()
    assert bench.place.state("mlflow-restarted")["tracking_problem"] is None
    return found


def assert_not_in_arguments(process: "subprocess.Popen[str]") -> None:
    """No process of a run shows the secret to everybody."""
    for member in family(process):
        with contextlib.suppress(psutil.Error):
            assert SECRET not in " ".join(member.cmdline())


def find_rank(process: "subprocess.Popen[str]", rank: int) -> Any:
    """The process of a rank: ranks lie in the order in which Ray started them."""
    workers = sorted(worker_processes(process), key=lambda worker: worker.pid)
    assert len(workers) == 2
    return workers[rank]


CASES: dict[str, Callable[[Bench], Finding]] = {
    "kill-worker": lambda bench: bench.measure("kill-worker", kill_rank(1)),
    "kill-rank-0": lambda bench: bench.measure("kill-rank-0", kill_rank(0)),
    "kill-controller": lambda bench: bench.measure("kill-controller", send(signal.SIGKILL), again=True),
    "sigterm": lambda bench: bench.measure("sigterm", send(signal.SIGTERM), again=True),
    "sigint": lambda bench: bench.measure("sigint", send(signal.SIGINT), again=True),
    "stop-rank": lambda bench: bench.measure("stop-rank", stop_rank),
    "truncated-checkpoint": lambda bench: bench.measure("truncated-checkpoint", kill_then_damage(truncate), again=True),
    "flipped-checkpoint": lambda bench: bench.measure("flipped-checkpoint", kill_then_damage(flip), again=True),
    "slow-rank": lambda bench: bench.measure("slow-rank", slow_rank),
    "mlflow-restarted": restart_mlflow,
    "locked-database": lambda bench: bench.measure("locked-database", lock_database),
}


def table(findings: list[Finding]) -> str:
    """Markdown."""
    heads = ("case", "exit", "once", "loss differs by", "attempts", "steps repeated", "s to recover", "left over")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for found in findings:
        loss = "0 (every bit)" if found.loss_difference == 0 else f"{found.loss_difference:.1e}"
        recovery = "-" if found.recovery_s is None else f"{found.recovery_s:.1f}"
        lines.append(
            f"| {found.case} | {found.exit_code} | {'yes' if found.seen_once else 'NO'} | {loss} | {found.attempts} | "
            f"{found.repeated_steps} | {recovery} | {', '.join(found.left) or 'nothing'} |"
        )
    return "\n".join(lines)
