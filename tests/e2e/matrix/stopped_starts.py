"""SIGTERM at random moments of a start: before the handler, imports, checks, MLflow, Ray, ranks, first steps.

A signal before Python runs a line of ours ends the process as it ends any other (status -15, which a shell shows as 143
too), and nothing is written then. From there on the exit code is 143 and the same command goes on.
"""

import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.e2e.matrix.faults import Bench, Finding
from tests.e2e.matrix.leftovers import left_over, look

MOMENTS = 50
STOPS_OF_A_RUN = 5
SEED = 20
BEYOND = 1.3
"""Moments lie between the first millisecond and so many times the time until the first step of an undisturbed start."""
FIRST_S = 0.001
TOO_LATE = "too late"
"""Stage of a run that had come to its end."""
STOP_S = 60.0
"""In which a stopped start must have ended on a busy machine."""


@dataclass(frozen=True)
class Stop:
    """after_s: from the start of the command to the signal. took_s: from there to its end."""

    after_s: float
    took_s: float
    code: int
    stage: str


def stopped_starts(bench: Bench) -> Finding:
    """Runs that are each stopped five times while they start, then let to their end."""
    draw = random.Random(SEED)
    whole = BEYOND * _time_to_first_step(bench)
    drawn = [whole * (part + draw.random()) / MOMENTS for part in range(MOMENTS)]
    moments = [FIRST_S, *drawn[1:]]
    draw.shuffle(moments)
    findings, stops = [], []
    for first in range(0, MOMENTS, STOPS_OF_A_RUN):
        found, seen = _stop_and_finish(bench, f"stopped-{first}", moments[first : first + STOPS_OF_A_RUN])
        findings.append(found)
        stops += seen
    codes = Counter(stop.code for stop in stops)
    stages = Counter(stop.stage for stop in stops)
    slowest = max(stops, key=lambda stop: stop.took_s)
    note = (
        f"{len(stops)} moments in {whole:.1f} s; ended with {dict(codes)}; {dict(stages)}; "
        f"slowest to end: {slowest.took_s:.1f} s, stopped after {slowest.after_s:.2f} s"
    )
    return replace(
        findings[0], case="stopped-starts", note=note, exit_codes=(*sorted(codes), 0), most_repeated=0,
        seen_once=all(found.seen_once for found in findings),
        loss_difference=max(found.loss_difference for found in findings),
        attempts=max(found.attempts for found in findings),
        repeated_steps=max(found.repeated_steps for found in findings),
        left=[left for found in findings for left in found.left],
    )  # fmt: skip


def _time_to_first_step(bench: Bench) -> float:
    """Seconds from the start of the command, which is stopped then."""
    case = "stopped-never"
    process = bench.place.start("train", str(bench.place.spec(bench.job(case))))
    started = time.monotonic()
    bench.place.wait_for_step(case, 1, process)
    took = time.monotonic() - started
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=STOP_S)
    bench.settled(process.pid)
    return took


def _stop_and_finish(bench: Bench, case: str, moments: list[float]) -> tuple[Finding, list[Stop]]:
    spec = bench.place.spec(bench.job(case))
    before = look(bench.place.folder)
    bench.standing = before.processes
    stops, left = [], []
    for after_s in moments:
        stop, session = _stop(bench, case, spec, after_s)
        stops.append(stop)
        left += left_over(before, bench.settled(session))
        if stop.stage == TOO_LATE:
            return bench.finding(case, None, left, ""), stops
    process = bench.place.start("train", str(spec))
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, f"{case}, stopped after {moments} s: exit code {process.returncode}\n{out}\n{error}"
    left += left_over(before, bench.settled(process.pid))
    return bench.finding(case, None, left, ""), stops


def _stop(bench: Bench, case: str, spec: Path, after_s: float) -> tuple[Stop, int]:
    """Start the command, and send SIGTERM so many seconds later; what that gave, and the process's session."""
    attempts = len(bench.place.events(case, "attempt"))
    process = bench.place.start("train", str(spec))
    with suppress(subprocess.TimeoutExpired):
        # Other work went away since the first start was measured.
        assert process.wait(after_s) == 0
        return Stop(after_s, 0.0, 0, TOO_LATE), process.pid
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    out, error = process.communicate(timeout=STOP_S)
    took, code = time.monotonic() - sent, process.returncode
    context = f"{case}, stopped after {after_s:.3f} s: exit code {code}\n{out}\n{error}"
    is_there = (bench.place.directory(case) / "state.json").exists()
    if is_there and bench.place.state(case)["status"] == "FINISHED":
        assert code == 0 and "tables, weights and events" in out, context
        return Stop(after_s, took, code, TOO_LATE), process.pid
    assert code == 143 or (code == -signal.SIGTERM and not out + error), context
    assert "Traceback" not in error, context
    assert not is_there or bench.place.state(case)["status"] == "KILLED", context
    if code != 143:
        stage = "before the handler"
    elif "KILLED" not in out:
        stage = "imports and checks"
    elif len(bench.place.events(case, "attempt")) == attempts:
        stage = "Ray and MLflow"
    else:
        stage = "ranks"
    return Stop(after_s, took, code, stage), process.pid
