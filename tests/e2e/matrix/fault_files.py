"""Cases of the fault matrix that damage files: checkpoints, the store, a disk that has no room."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.e2e.matrix.faults import MOST_REPEATED, Bench, Finding

SHARD = "shards/R2/train-00001.safetensors"
NAN = b"\x00\x00\xc0\x7f"


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    """The largest file of a checkpoint: a rank's share of the state."""
    return max((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)


def damage_checkpoint(case: str, change: Callable[[Path], None]) -> "Case":
    """Kill the controller, change the largest file of the newest checkpoint: the run goes on from the one before."""

    def run(bench: Bench) -> Finding:
        states: list[Path] = []

        def disturb(bench: Bench, case: str, process: "subprocess.Popen[str]") -> None:
            process.kill()
            process.communicate()
            bench.settled(process.pid)
            states.extend(sorted((bench.place.directory(case) / "checkpoints").glob("step-*")))
            change(largest(states[-1]))

        found = bench.measure(case, disturb, ends=-signal.SIGKILL)
        warnings = [event["text"] for event in bench.place.events(case, "warning") if "is damaged" in event["text"]]
        assert len(warnings) == 1 and f"checkpoint {states[-1].name} is damaged" in warnings[0], warnings
        begun = [event["step"] for event in bench.place.events(case, "attempt")]
        assert begun[-1] == int(states[-2].name.removeprefix("step-")), begun
        return replace(found, note=warnings[0], most_repeated=2 * MOST_REPEATED)

    return run


def damage_store(bench: Bench, case: str, error: str) -> str:
    """Flip a bit of a file of the store, or cut it: the same command must name it and end with 2. Then put it back."""
    for file in (SHARD, "manifest.json"):
        path = bench.store / file
        content = path.read_bytes()
        for change in (flip, truncate):
            change(path)
            refused = bench.place.run("train", str(bench.place.folder / f"{case}.yaml"))
            path.write_bytes(content)
            assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
            assert path.name in refused.stderr, refused.stderr
    return "refused with exit code 2 until the file was put back: shard and manifest, a flipped bit and a cut each"


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
        assert bench.place.tracked(case).info.status == "FAILED"
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


Case = Callable[[Bench], Finding]
