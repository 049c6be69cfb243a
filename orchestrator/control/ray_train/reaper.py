"""A small process that outlives a killed controller just long enough to end what its embedded Ray left.

It waits for the end of its standard input, which the controller holds open; a clean end of the session finds nothing to
do. Only processes that belong to the session's own folder are ended. Started as a script, so that it imports
nothing but the standard library.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 3.0
MARK = "RAY_AUTH_TOKEN_PATH"
MEMORY = "WAVETRAIN_MEMORY"
"""Environment variable of a session's processes: a folder in the machine's memory that is the session's own."""
SHARED_MEMORY = Path("/dev/shm")


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """Watch over the Ray session of a folder; close the returned process's ``stdin`` to let it finish."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def memory_of(folder: Path) -> Path:
    """The folder in the machine's memory of the session that has this folder."""
    return SHARED_MEMORY / folder.name


def remove_session(folder: Path) -> None:
    """Remove both folders of a session."""
    shutil.rmtree(memory_of(folder), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def session_processes(folder: str, spared: int) -> list[int]:
    """Process ids, but not ``spared`` (the controller), of those that have a file of the folder open or name it.

    Ray's agents rename themselves, which overwrites the environment that others can read; their log files remain.
    """
    found = []
    for entry in Path("/proc").iterdir():
        number = int(entry.name) if entry.name.isdigit() else 0
        if number and number not in (os.getpid(), spared) and _belongs(entry, folder):
            found.append(number)
    return found


def _belongs(process: Path, folder: str) -> bool:
    try:
        if f"{MARK}={folder}/".encode() in (process / "environ").read_bytes():
            return True
        return any(str(link.readlink()).startswith(f"{folder}/") for link in (process / "fd").iterdir())
    except OSError:
        return False


def end_session(folder: str, controller: int) -> None:
    """Give the session's processes a moment, then kill what is left and remove the folder."""
    deadline = time.monotonic() + GRACE_S
    while session_processes(folder, controller) and time.monotonic() < deadline:
        time.sleep(0.2)
    for _ in range(3):
        for process in session_processes(folder, controller):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    remove_session(Path(folder))


def main() -> None:
    """Wait until the controller is gone or has finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_session(sys.argv[1], int(sys.argv[2]))


if __name__ == "__main__":
    main()
