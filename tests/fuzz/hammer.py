"""Feeds hostile files to a reader in a process of its own, with bounded memory and time; watches where it writes."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from channels.errors import UserError
from tests.fuzz.mutations import OUTSIDE, Mutation

MEMORY_BYTES = 2**30
"""What a reader may take above what it needs to be imported."""
CASE_S = 20
ALL_S = 200


@dataclass(frozen=True)
class Target:
    """A reader of a folder, and which of its files are changed how."""

    good: Path
    files: Mapping[str, Mutation]
    read: Callable[[Path], object]


def hammer(target: Target, mutants: int, scratch: Path, seed: int = 0) -> None:
    """Read the good folder and then ``mutants`` hostile copies of it.

    Fails for any exception but UserError, a crash, a hang, too much memory, or a file written beside the folder.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, target, mutants, scratch, seed), daemon=True)
    process.start()
    theirs.close()
    last: Any = "the good input"
    try:
        while ours.poll(ALL_S):
            last = ours.recv()
            if isinstance(last, list):
                break
        else:
            raise AssertionError(f"hangs on {last}")
    except EOFError:
        process.join()
        raise AssertionError(f"died with {process.exitcode} on {last}") from None
    finally:
        process.kill()
        process.join()
    assert not last, f"{len(last)} of {mutants} mutants:\n" + "\n".join(last[:8])


def _serve(connection: Connection, target: Target, mutants: int, scratch: Path, seed: int) -> None:
    signal.signal(signal.SIGALRM, _too_slow)
    # Copied, since an import leaves its store there. What it imports is no part of the memory that hostile input takes.
    target.read(Path(shutil.copytree(target.good, scratch / "good" / target.good.name)))
    _limit_memory()
    # Where relative paths lead.
    elsewhere = scratch / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    faults = []
    for number in range(mutants):
        draw = random.Random(f"{seed}/{number}")
        case = scratch / "case"
        folder = case / target.good.name
        shutil.copytree(target.good, folder)
        name = draw.choice(sorted(target.files))
        connection.send(f"mutant {number} of {name}")
        (folder / name).write_bytes(target.files[name]((folder / name).read_bytes(), draw))
        fault = _read(target, folder)
        written = _written_outside(scratch, folder)
        if written:
            fault = f"wrote {written} outside of the folder"
        if fault:
            faults.append(f"mutant {number} of {name}: {fault}")
        shutil.rmtree(case)
    connection.send(faults)


def _written_outside(scratch: Path, folder: Path) -> list[str]:
    """Whatever lies beside the folder, where the process works, or where the paths of the mutations lead."""
    found = {path for path in folder.parent.iterdir() if path != folder} | set((scratch / "elsewhere").iterdir())
    found |= {path for path in scratch.iterdir() if path.name not in ("good", "case", "elsewhere")}
    found |= {path for parent in (*folder.parents, Path("/tmp")) if (path := parent / OUTSIDE).exists()}
    return sorted(map(str, found))


def _read(target: Target, folder: Path) -> str | None:
    signal.alarm(CASE_S)
    try:
        target.read(folder)
    except UserError as error:
        return None if "\n" not in str(error) else f"more than a line: {error}"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})"
    finally:
        signal.alarm(0)
    return None


def _too_slow(number: int, frame: object) -> None:
    raise TimeoutError(f"no answer in {CASE_S} s")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
