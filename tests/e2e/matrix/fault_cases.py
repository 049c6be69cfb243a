"""The cases of the fault matrix: what is done to a run, and what it must answer."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from channels.files import is_unfinished, write_atomically
from tests.e2e import clock
from tests.e2e.matrix.fault_files import (
    Case,
    damage_checkpoint,
    damage_store,
    flip,
    full_checkpoints,
    full_events,
    nan_in_a_sample,
    truncate,
)
from tests.e2e.matrix.faults import Bench, Disturb, Finding, Mend
from tests.e2e.matrix.stopped_starts import stopped_starts
from tests.e2e.mlflow_server import mlflow_server
from tests.e2e.raylets import RayletsProcess, add_node, connection, lose_node
from tests.e2e.runs import ROOT, Place, family, training_ranks

RECOVERY_S = 5.0
"""In which a run has a killed rank replaced on quiet cores, its repeated steps included."""
HANG_S = 10.0
"""Least patience for a step in the case of a rank that is stopped."""
IN_MEMORY = 2
"""Steps that are repeated at most: states are copied as often as costs a hundredth of the time."""
INSIDE_WRITE = Path(__file__).parent / "inside_write"
TOLERANCE = 1e-5
"""Of losses whose sums are rounded in another order."""


def kill_rank(rank: int) -> Disturb:
    """SIGKILL for one rank."""

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        find_rank(process, rank).kill()

    return disturb


def kill_worker(bench: Bench) -> Finding:
    """SIGKILL for a rank that is not the first; recovery is measured against what is promised."""
    return from_memory(bench.measure("kill-worker", kill_rank(1)), RECOVERY_S)


def from_memory(found: Finding, recovery_s: float) -> Finding:
    """The case's bounds where the machine is not lost, so that the newest state is in its memory."""
    return replace(found, most_recovery_s=recovery_s * slowness(), most_repeated=round(IN_MEMORY * slowness()))


def slowness() -> float:
    """By how much longer everything may take here: other work takes the cores of this machine."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def stop_rank(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
    """SIGSTOP for one rank, which never goes on by itself."""
    find_rank(process, 1).send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 240
    while len(bench.place.events(case, "attempt")) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    stacks = sorted((bench.place.directory(case) / "stacks").rglob("rank-*.txt"))
    assert stacks and "Thread" in stacks[0].read_text()
    return f"stacks of {len(stacks)} ranks"


def send(number: signal.Signals) -> Disturb:
    """A signal for the controller."""

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        process.send_signal(number)

    return disturb


def lock_database(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
    """Lock MLflow's sqlite for ten seconds."""
    import sqlite3

    lock = sqlite3.connect(bench.place.folder / "runs" / "mlflow.db", isolation_level=None, timeout=60)
    lock.execute("BEGIN EXCLUSIVE")
    time.sleep(10)
    lock.execute("ROLLBACK")
    lock.close()
    return "database locked for 10 s"


def locked_database(bench: Bench) -> Finding:
    """MLflow's database is locked for a while: it has every step in the end."""
    found = bench.measure("locked-database", lock_database)
    assert_all_is_tracked(bench, "locked-database")
    return found


def assert_all_is_tracked(bench: Bench, case: str, uri: str | None = None) -> None:
    """MLflow's history is that of the events, if need be after ``wavetrain sync``."""
    if bench.place.state(case)["tracking_problem"] is not None:
        synced = bench.place.run("sync", case)
        assert synced.returncode == 0, synced.stderr
    assert bench.place.history(case, "train/loss", uri) == sorted(bench.place.losses(case).items())


def slow_rank(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
    """Hold one rank up in every step until a warning names it."""
    worker = find_rank(process, 1)
    deadline = time.monotonic() + 240
    while not (warnings := named_slow(bench, case)) and process.poll() is None:
        assert time.monotonic() < deadline
        done = len(bench.place.events(case))
        worker.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        worker.send_signal(signal.SIGCONT)
        while len(bench.place.events(case)) == done and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert warnings, "no rank is named"
    return warnings[0]


def named_slow(bench: Bench, case: str) -> list[str]:
    """Warnings about slow ranks."""
    return [text for event in bench.place.events(case, "warning") if "as the median rank" in (text := event["text"])]


def restart_mlflow(bench: Bench) -> Finding:
    """A run on an MLflow server that is stopped and started again."""
    with mlflow_server(bench.place.folder / "server") as server:

        def restart(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
            server.stop()
            time.sleep(10)
            server.start()
            return "server away for 10 s"

        found = bench.measure("mlflow-restarted", restart, tracking={"uri": server.uri})
        assert_all_is_tracked(bench, "mlflow-restarted", server.uri)
    return found


def find_rank(process: "subprocess.Popen[str]", rank: int) -> Any:
    """The process of a rank: the one that writes this rank's log of samples."""
    for worker in training_ranks(family(process)):
        if any(entry.path.endswith(f"/samples/rank-{rank}.jsonl") for entry in worker.open_files()):
            return worker
    raise AssertionError(f"no process of rank {rank}")


@contextmanager
def standing_cluster(bench: Bench, nodes: int) -> Iterator[tuple[Bench, RayletsProcess]]:
    """A cluster of so many nodes of one CPU, and the bench whose runs use it."""
    with RayletsProcess(nodes) as raylets:
        address, environment = raylets(connection)
        folder = bench.place.folder / f"cluster-{nodes}"
        folder.mkdir(exist_ok=True)
        profile = f"{{ray_address: '{address}', storage: {{runs: runs}}}}"
        (folder / "cluster.yaml").write_text(f"default: here\nprofiles: {{here: {profile}}}\n")
        # The nodes have the folder of all cases there.
        environment |= {"WAVETRAIN_TEST_FOLDER": str(folder)}
        yield replace(bench, place=Place(folder, environment)), raylets


def kill_raylet(bench: Bench) -> Finding:
    """A node of a standing cluster of two is lost, and another one comes."""
    with standing_cluster(bench, 2) as (there, raylets):

        def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
            raylets(lose_node, 1)
            raylets(add_node)

        return there.measure("kill-raylet", disturb)


def resume(bench: Bench, workers: int, stage: int) -> Finding:
    """End a run of 2 ranks with ZeRO 2 after a checkpoint; go on with other ranks and another stage."""
    case = f"resume-{workers}-zero-{stage}"
    again = ("--set", f"scale.workers={workers}", "--set", f"train.zero_stage={stage}")
    with standing_cluster(bench, 4) as (there, _):
        return there.measure(case, send(signal.SIGTERM), ends=143, again=again, tolerance=TOLERANCE)


def jump_clock(bench: Bench) -> Finding:
    """The machine's clock goes two days ahead, then back by four, for every process of a run."""
    shift = clock.make_shift(bench.place.folder)

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
        shift.jump(2 * 86400)
        bench.place.wait_for_step(case, 40, process)
        shift.jump(-4 * 86400)
        bench.place.wait_for_step(case, 44, process)
        return "two days ahead, then four back"

    there = replace(bench, place=replace(bench.place, environment=shift.environment))
    found = there.measure("clock-jump", disturb)
    times = [event["time"] for event in bench.place.events("clock-jump")]
    assert max(times) - times[0] > 86400 and min(times) - times[0] < -86400, "the clock did not jump"
    # The run's records have a clock of their own, whose jump ahead is in its ledger.
    assert abs(found.ledger["stopped"] - 2 * 86400) < 60, found.ledger
    return replace(found, unaccounted=0.0)


def kill_inside_write(bench: Bench) -> Finding:
    """The controller is killed between writing a small file and its rename; the next attempt clears what it left."""
    case, request = "kill-inside-write", bench.place.folder / "kill-inside-write"
    environment = {"PYTHONPATH": f"{INSIDE_WRITE}:{ROOT}", "KILL_INSIDE_WRITE": str(request)}

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        write_atomically(request, str(process.pid))

    def find_unfinished(bench: Bench, case: str, error: str) -> str:
        (left,) = [path for path in bench.place.directory(case).rglob(".*.tmp") if is_unfinished(path)]
        return f"left {left.name}"

    there = replace(bench, place=replace(bench.place, environment=environment))
    return there.measure(case, disturb, ends=-signal.SIGKILL, mend=find_unfinished)


def after_a_kill(case: str, mend: Mend | None = None) -> Case:
    """The controller is killed, something is damaged, the same command goes on."""
    return lambda bench: bench.measure(case, send(signal.SIGKILL), ends=-signal.SIGKILL, mend=mend)


CASES: dict[str, Case] = {
    "kill-worker": kill_worker,
    "kill-rank-0": lambda bench: from_memory(bench.measure("kill-rank-0", kill_rank(0)), RECOVERY_S),
    "kill-raylet": kill_raylet,
    "kill-controller": after_a_kill("kill-controller"),
    "kill-inside-write": kill_inside_write,
    "sigterm": lambda bench: bench.measure("sigterm", send(signal.SIGTERM), ends=143),
    "sigint": lambda bench: bench.measure("sigint", send(signal.SIGINT), ends=130),
    "stop-rank": lambda bench: from_memory(
        bench.measure("stop-rank", stop_rank, failures={"hang_floor_s": HANG_S}), HANG_S + RECOVERY_S
    ),
    "slow-rank": lambda bench: bench.measure("slow-rank", slow_rank),
    "resume-1-zero-0": lambda bench: resume(bench, 1, 0),
    "resume-2-zero-1": lambda bench: resume(bench, 2, 1),
    "resume-4-zero-3": lambda bench: resume(bench, 4, 3),
    "truncated-checkpoint": damage_checkpoint("truncated-checkpoint", truncate),
    "flipped-checkpoint": damage_checkpoint("flipped-checkpoint", flip),
    "damaged-store": after_a_kill("damaged-store", damage_store),
    "nan-in-a-sample": nan_in_a_sample,
    "full-disk-checkpoints": full_checkpoints,
    "full-disk-events": full_events,
    "mlflow-restarted": restart_mlflow,
    "locked-database": locked_database,
    "clock-jump": jump_clock,
    "stopped-starts": stopped_starts,
}
NEED_ROOT = ("full-disk-checkpoints", "full-disk-events")
"""Cases that mount a disk."""
