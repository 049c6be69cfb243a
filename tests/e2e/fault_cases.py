"""The cases of the fault matrix: what is done to a run, and what it must answer."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.e2e import clock
from tests.e2e.faults import Bench, Disturb, Finding, Mend
from tests.e2e.mlflow_server import MlflowServer
from tests.e2e.raylets import RayletsProcess, add_node, connection, lose_node
from tests.e2e.runs import Place, worker_processes

SHARD = "shards/R2/train-00001.safetensors"
TOLERANCE = 1e-5
"""Of losses whose sums are rounded in another order."""
NAN = b"\x00\x00\xc0\x7f"


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
        bench.settled(process.pid)
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


def find_rank(process: "subprocess.Popen[str]", rank: int) -> Any:
    """The process of a rank: the one that writes this rank's log of samples."""
    for worker in worker_processes(process):
        if any(entry.path.endswith(f"/samples/rank-{rank}.jsonl") for entry in worker.open_files()):
            return worker
    raise AssertionError(f"no process of rank {rank}")


def damage_store(file: str, change: Callable[[Path], None]) -> Mend:
    """Change a file of the store: the same command must name it and end with 2. Then put it back."""

    def mend(bench: Bench, case: str, error: str) -> str:
        path = bench.store / file
        content = path.read_bytes()
        change(path)
        refused = bench.place.run("train", str(bench.place.folder / f"{case}.yaml"))
        path.write_bytes(content)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert Path(file).name in refused.stderr, refused.stderr
        return "refused with exit code 2 until the file was put back"

    return mend


def nan_in_a_sample(bench: Bench) -> Finding:
    """A value of a mapped shard becomes NaN: the run must say so and stop, and go on once it has been put back."""
    path = bench.store / SHARD
    content = path.read_bytes()

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        with path.open("r+b") as stream:
            stream.seek(len(content) // 8 * 4)
            stream.write(NAN)

    def mend(bench: Bench, case: str, error: str) -> str:
        assert "mean power nan" in error and "channels verify" in error, error
        path.write_bytes(content)
        return "refused until the value was put back"

    try:
        return bench.measure("nan-in-a-sample", disturb, ends=2, mend=mend)
    finally:
        path.write_bytes(content)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A folder on a disk of its own of that size (root only)."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, but: int = 0) -> Path:
    """A file that takes what is left of a disk, but so many bytes."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(2**16))
    os.truncate(path, path.stat().st_size - but)
    return path


def full_checkpoints(bench: Bench) -> Finding:
    """The disk has no room for a checkpoint, only for what is logged."""
    case = "full-disk-checkpoints"

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> str:
        filler = fill(disk, but=2**20)
        warned = wait_for_warning(bench, case, "NO checkpoint at step", process)
        filler.unlink()
        return warned

    with small_disk(bench.place.directory(case), 64) as disk:
        return bench.measure(case, disturb)


def full_events(bench: Bench) -> Finding:
    """The disk of everything that the run writes is full."""
    case = "full-disk-events"
    fillers: list[Path] = []

    def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
        fillers.append(fill(disk))

    def mend(bench: Bench, case: str, error: str) -> str:
        assert "No space left" in error or "disk is full" in error, error
        fillers.pop().unlink()
        return "went on once there was room"

    with small_disk(bench.place.directory(case), 64) as disk:
        return bench.measure(case, disturb, ends=2, mend=mend)


def wait_for_warning(bench: Bench, case: str, text: str, process: "subprocess.Popen[str]") -> str:
    """The first warning of a run with that text."""
    deadline = time.monotonic() + 240
    while True:
        for event in bench.place.events(case, "warning"):
            if text in event["text"]:
                return str(event["text"])
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)


@contextmanager
def standing_cluster(bench: Bench, nodes: int) -> Iterator[tuple[Bench, RayletsProcess]]:
    """A cluster of so many nodes of one CPU, and the bench whose runs use it."""
    with RayletsProcess(nodes) as raylets:
        address, environment = raylets(connection)
        folder = bench.place.folder / f"cluster-{nodes}"
        folder.mkdir()
        profile = f"{{ray_address: '{address}', storage: {{runs: runs}}}}"
        (folder / "cluster.yaml").write_text(f"default: here\nprofiles: {{here: {profile}}}\n")
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
        return "two days ahead, then four back"

    there = replace(bench, place=replace(bench.place, environment=shift.environment))
    found = there.measure("clock-jump", disturb)
    times = [event["time"] for event in bench.place.events("clock-jump")]
    assert max(times) - times[0] > 86400 and min(times) - times[0] < -86400, "the clock did not jump"
    return found


def after_a_kill(case: str, mend: Mend | None = None, disturb: Disturb | None = None) -> Callable[[Bench], Finding]:
    """The controller is killed, something is damaged, the same command goes on."""
    return lambda bench: bench.measure(case, disturb or send(signal.SIGKILL), ends=-signal.SIGKILL, mend=mend)


CASES: dict[str, Callable[[Bench], Finding]] = {
    "kill-worker": lambda bench: bench.measure("kill-worker", kill_rank(1)),
    "kill-rank-0": lambda bench: bench.measure("kill-rank-0", kill_rank(0)),
    "kill-raylet": kill_raylet,
    "kill-controller": after_a_kill("kill-controller"),
    "sigterm": lambda bench: bench.measure("sigterm", send(signal.SIGTERM), ends=143),
    "sigint": lambda bench: bench.measure("sigint", send(signal.SIGINT), ends=130),
    "stop-rank": lambda bench: bench.measure("stop-rank", stop_rank),
    "slow-rank": lambda bench: bench.measure("slow-rank", slow_rank),
    "resume-1-zero-0": lambda bench: resume(bench, 1, 0),
    "resume-4-zero-3": lambda bench: resume(bench, 4, 3),
    "truncated-checkpoint": after_a_kill("truncated-checkpoint", disturb=kill_then_damage(truncate)),
    "flipped-checkpoint": after_a_kill("flipped-checkpoint", disturb=kill_then_damage(flip)),
    "flipped-shard": after_a_kill("flipped-shard", damage_store(SHARD, flip)),
    "truncated-manifest": after_a_kill("truncated-manifest", damage_store("manifest.json", truncate)),
    "nan-in-a-sample": nan_in_a_sample,
    "full-disk-checkpoints": full_checkpoints,
    "full-disk-events": full_events,
    "mlflow-restarted": restart_mlflow,
    "locked-database": lambda bench: bench.measure("locked-database", lock_database),
    "clock-jump": jump_clock,
}
NEED_ROOT = ("full-disk-checkpoints", "full-disk-events")
"""Cases that mount a disk."""
