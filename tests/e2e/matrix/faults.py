"""The fault matrix: one disturbed run a case, compared with a run that nobody touched."""

import contextlib
import math
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.run.ledger_reader import LedgerReader
from orchestrator.spec.job import JobSpec
from orchestrator.training.sample_log import samples_of_epochs
from tests.e2e.matrix.leftovers import Machine, left_over, look, processes
from tests.e2e.runs import Place, family
from tests.jobs_for_tests import small_job
from tests.stores import SHAPES, make_random_store

EPOCHS = 8
EVERY_STEPS = 7
TRAIN = 45
SECRET = "sentinel-of-the-fault-matrix"
"""A password in the environment of every run: it must be found nowhere."""
STEP = 16
"""Disturbed once this step is logged and the checkpoint below is whole."""
SAVED = 14
MOST_UNACCOUNTED = 0.01
MOST_REPEATED = EVERY_STEPS + 2
"""Steps that a fault costs: a checkpoint interval, and a step or two until a checkpoint is whole."""


@dataclass(frozen=True)
class Finding:
    """A line of the table. recovery_s: from the fault to the first step that was not there before it."""

    case: str
    exit_codes: tuple[int, ...]
    seen_once: bool
    loss_difference: float
    """Largest relative difference of any step's loss from the undisturbed run; 0: bit for bit."""
    attempts: int
    repeated_steps: int
    recovery_s: float | None
    left: list[str]
    note: str = ""
    tolerance: float = 0.0
    """Of the loss: above zero where sums are rounded in another order."""
    most_repeated: int = MOST_REPEATED
    most_recovery_s: float | None = None
    ledger: dict[str, float] = field(default_factory=dict)
    """Seconds of the run's wall time by what they went to, zeros left out."""
    unaccounted: float = 0.0
    """Share of the wall time by the bench's clock that the ledger has too much or too little."""

    def problems(self) -> list[str]:
        """What is not as it must be."""
        late = self.most_recovery_s is not None and (self.recovery_s or math.inf) > self.most_recovery_s
        wrong = {
            "samples are lost or seen twice": not self.seen_once,
            f"losses differ by {self.loss_difference:.1e}": not self.loss_difference <= self.tolerance,
            f"{self.repeated_steps} steps are repeated, not {self.most_repeated}": (
                self.repeated_steps > self.most_repeated
            ),
            f"recovery takes {self.recovery_s} s, not {self.most_recovery_s}": late,
            f"left over: {', '.join(self.left)}": bool(self.left),
            f"the ledger is {self.unaccounted:.1%} off": not self.unaccounted <= MOST_UNACCOUNTED,
            "the ledger knows no repeated work": bool(self.repeated_steps) != ("repeated" in self.ledger),
        }
        return [problem for problem, is_so in wrong.items() if is_so]

    def row(self) -> dict[str, Any]:
        """For the table and the record."""
        return asdict(self)


@dataclass(frozen=True)
class Failed:
    """A case that could not be measured, or ended in another way than it must."""

    case: str
    cause: str

    def problems(self) -> list[str]:
        """What is not as it must be."""
        return [self.cause]

    def row(self) -> dict[str, Any]:
        """For the table and the record."""
        return asdict(self)


@dataclass
class Bench:
    """Where the cases run. losses: of the undisturbed run, by step. standing: what ran before a case began."""

    place: Place
    store: Path
    losses: dict[int, float]
    standing: frozenset[tuple[int, str]] = frozenset()

    def job(self, name: str, **sections: Any) -> JobSpec:
        """The job of every case under another name."""
        fields: dict[str, Any] = {
            "train": {"epochs": EPOCHS, "lr": 1e-3, "warmup_epochs": 0.5},
            "checkpoint": {"every_steps": EVERY_STEPS},
            "data": {"zeroshot_sets": []},
            "tracking": {"log_samples": True, "register_model": False, "system_every_s": 0},
            "failures": {"hang_floor_s": 60.0, "hang_factor": 2.0},
        }
        return small_job(self.store, name, **{key: fields.get(key, {}) | sections.get(key, {}) for key in fields})

    def measure(
        self,
        case: str,
        disturb: "Disturb | None" = None,
        *,
        ends: int | None = None,
        mend: "Mend | None" = None,
        again: Sequence[str] = (),
        tolerance: float = 0.0,
        **sections: Any,
    ) -> Finding:
        """Run the case's job and disturb it.

        ends: exit code with which the disturbed run is to end; the same command is then run again, with more arguments
        ``again``. mend: called in between, what it returns goes into the table.
        """
        spec = self.place.spec(self.job(case, **sections))
        before = look(self.place.folder)
        self.standing = before.processes
        try:
            return self._disturb_and_compare(case, spec, before, disturb, ends, mend, again, tolerance)
        except BaseException:
            # The cases after it must not meet what is left of it.
            for number, _ in processes(self.place.folder).items() - before.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            raise

    def _disturb_and_compare(
        self,
        case: str,
        spec: Path,
        before: Machine,
        disturb: "Disturb | None",
        ends: int | None,
        mend: "Mend | None",
        again: Sequence[str],
        tolerance: float,
    ) -> Finding:
        recovery, note = None, ""
        commanded = time.time()
        process = self.place.start("train", str(spec))
        session = process.pid
        if disturb is not None:
            self.place.wait_for_step(case, STEP, process)
            self.place.wait_for_step(case, SAVED, process, "checkpoint")
            assert any("RayTrainWorker" in name for name in processes(self.place.folder).values()), "no rank is found"
            assert_not_in_arguments(process)
            started, began = time.monotonic(), time.time()
            known = len(self.place.events(case))
            note = disturb(self, case, process) or ""
            recovery = self._recovered(case, known, process, started)
        out, error = process.communicate(timeout=300)
        codes = [process.returncode]
        if disturb is not None and ends is None and len(self.place.events(case, "attempt")) > 1:
            # A rank that is lost with its node may have logged another step by then.
            recovery = self._time_of_new_step(case) - began
        if ends is not None:
            assert codes == [ends], f"{case}: exit code {codes[0]}, not {ends}\n{out}\n{error}"
            # Ranks outlive a killed controller for a moment, and log steps.
            self.settled(session)
            note = (mend and mend(self, case, error)) or note
            started, known = time.monotonic(), len(self.place.events(case))
            process = self.place.start("train", str(spec), *again)
            recovery = self._recovered(case, known, process, started)
            out, error = process.communicate(timeout=300)
            codes.append(process.returncode)
            session = process.pid
        assert codes[-1] == 0, f"{case}: exit code {codes[-1]}\n{out}\n{error}"
        left = left_over(before, self.settled(session)) + self._leaks()
        finding = self.finding(case, recovery, left, note)
        return replace(finding, exit_codes=tuple(codes), tolerance=tolerance, **self._ledger(case, commanded))

    def _ledger(self, case: str, commanded: float) -> dict[str, Any]:
        """What the run's ledger says. commanded: when the first command was started, seconds since 1970."""
        directory = RunDirectory(self.place.directory(case))
        ledger = LedgerReader(directory).advance()
        end = [entry["time"] for entry in read_events(directory.tracking)[0] if entry["kind"] == "end"][-1]
        seconds = {part: round(value, 2) for part, value in ledger.seconds.items() if value}
        return {"ledger": seconds, "unaccounted": abs(ledger.wall_s / (end - commanded) - 1)}

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

    def _time_of_new_step(self, case: str) -> float:
        """When the last attempt logged its first step beyond all those before it."""
        attempt = self.place.events(case, "attempt")[-1]["time"]
        steps = [(event["time"], event["step"]) for event in self.place.events(case)]
        furthest = max(step for logged, step in steps if logged < attempt)
        return float(next(logged for logged, step in steps if logged > attempt and step > furthest))

    def settled(self, session: int) -> Machine:
        """The machine once the processes of a command are gone, or half a minute later."""
        deadline = time.monotonic() + 30
        while (machine := look(self.place.folder, session)).processes - self.standing and time.monotonic() < deadline:
            time.sleep(0.3)
        return machine

    def finding(self, case: str, recovery: float | None, left: list[str], note: str) -> Finding:
        """What a finished run has come to."""
        steps = [event["step"] for event in self.place.events(case)]
        losses = {event["step"]: event["metrics"]["train/loss"] for event in self.place.events(case)}
        assert losses.keys() == self.losses.keys() or not self.losses
        differences = [abs(losses[step] / loss - 1) for step, loss in self.losses.items()]
        return Finding(
            case=case, exit_codes=(), seen_once=seen_once(self.place.directory(case) / "samples"),
            loss_difference=max(differences, default=0.0), attempts=len(self.place.events(case, "attempt")),
            repeated_steps=len(steps) - len(set(steps)), recovery_s=recovery, left=left, note=note,
        )  # fmt: skip


Disturb = Callable[[Bench, str, "subprocess.Popen[str]"], str | None]
Mend = Callable[[Bench, str, str], str | None]
"""Called with the bench, the case, and what the disturbed run said on stderr."""


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
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ |= {"TMPDIR": str(temporary), "WAVETRAIN_TEST_FOLDER": str(folder)}
    os.environ |= {"MLFLOW_TRACKING_PASSWORD": SECRET, "AWS_SECRET_KEY": SECRET}
    bench = Bench(Place(folder), store, {})
    undisturbed = bench.measure("undisturbed")
    bench.losses = bench.place.losses("undisturbed")
    return bench, undisturbed


def assert_not_in_arguments(process: "subprocess.Popen[str]") -> None:
    """No process of a run shows the secret to everybody."""
    for member in family(process):
        with contextlib.suppress(psutil.Error):
            assert SECRET not in " ".join(member.cmdline())


def table(findings: Sequence[Finding | Failed]) -> str:
    """Markdown."""
    heads = ("case", "exit", "once", "loss differs by", "attempts", "steps repeated", "s to recover", "left over")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for found in findings:
        if isinstance(found, Failed):
            lines.append(f"| {found.case} | FAILED: {found.cause.replace('|', '/')}" + " |" * (len(heads) - 1))
            continue
        loss = "0 (every bit)" if found.loss_difference == 0 else f"{found.loss_difference:.1e}"
        codes = ", ".join(map(str, found.exit_codes))
        recovery = "-" if found.recovery_s is None else f"{found.recovery_s:.1f}"
        lines.append(
            f"| {found.case} | {codes} | {'yes' if found.seen_once else 'NO'} | {loss} | {found.attempts} | "
            f"{found.repeated_steps} | {recovery} | {', '.join(found.left) or 'nothing'} |"
        )
    return "\n".join(lines)
