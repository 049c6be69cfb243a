"""Notices that a rank makes no step: it writes down its stacks and ends, and Ray Train starts the group again."""

import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from orchestrator.monitoring.flight_recorder import write_flight_recorder

HANG_EXIT_CODE = 86
REMEMBERED_STEPS = 100
STEPS_TO_KNOW = 5
FIRST_STEPS_S = 900.0
"""Patience until step times are known: the first steps may compile kernels."""
LOOKS = 20
"""Within the least patience, or within ten seconds where that is more."""
GRACE_S = 0.5
"""For other ranks to write down their stacks once they have looked."""
RECORDER_S = 20.0
"""For the flight recorder; then the process ends without it."""


class Watchdog(threading.Thread):
    """Watches one rank between ``with`` and its end.

    factor: patience as a multiple of the median step time. floor_s: least patience in seconds; first_s: until step
    times are known. stacks: file for the stacks of all threads, the flight recorder goes beside it. end: ends the
    process, whose main thread may be stuck where no exception reaches it.
    """

    def __init__(
        self,
        stacks: Path,
        *,
        factor: float,
        floor_s: float,
        first_s: float = FIRST_STEPS_S,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stacks = stacks
        self._factor = factor
        self._floor_s, self._first_s = floor_s, first_s
        self._look_s = min(floor_s, 10.0) / LOOKS
        self._end = end
        self._seconds: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._last = time.monotonic()
        self._is_paused = False
        self._stopped = threading.Event()

    def beat(self) -> None:
        """A step was made."""
        now = time.monotonic()
        self._seconds.append(now - self._last)
        self._last = now

    def restart(self) -> None:
        """Time until now does not count."""
        self._last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside it there is no patience to lose: something other than a step is done, e.g. a state is saved."""
        self._is_paused = True
        try:
            yield
        finally:
            self.restart()
            self._is_paused = False

    @property
    def patience_s(self) -> float:
        """Seconds without a step that are too many."""
        if len(self._seconds) < STEPS_TO_KNOW:
            return max(self._first_s, self._floor_s)
        return max(self._factor * statistics.median(self._seconds), self._floor_s)

    def run(self) -> None:
        """Look now and then; called by the thread.

        Where the whole process was stopped (SIGSTOP), this thread was too. So a look that comes late proves no hang.
        """
        looked = time.monotonic()
        while not self._stopped.wait(self._look_s):
            now = time.monotonic()
            stopped = now - looked > self._floor_s
            looked = now
            if stopped or self._is_paused:
                self.restart()
            elif now - self._last > self.patience_s:
                self._give_up(now - self._last)
                return

    def _give_up(self, seconds: float) -> None:
        try:
            self._write_down(seconds)
        finally:
            # Once this rank ends, all do. So it gives the others time for one more look, in which they write their
            # stacks.
            time.sleep(self._look_s + GRACE_S)
            self._end(HANG_EXIT_CODE)

    def _write_down(self, seconds: float) -> None:
        self._stacks.parent.mkdir(parents=True, exist_ok=True)
        with self._stacks.open("w") as file:
            file.write(f"no step for {seconds:.1f} s (patience {self.patience_s:.1f} s)\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            os.fsync(file.fileno())
            # Where a device hangs, the recorder may wait for it and hold up this thread too.
            faulthandler.dump_traceback_later(RECORDER_S, exit=True, file=file)
            try:
                write_flight_recorder(self._stacks.with_suffix(".collectives.json"))
            finally:
                faulthandler.cancel_dump_traceback_later()

    def __enter__(self) -> "Watchdog":
        self.restart()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self.join()


def stacks_file(folder: Path, rank: int) -> Path:
    """Where this process, a rank, writes its stacks."""
    return folder / f"rank-{rank}-process-{os.getpid()}.txt"


def stack_files(folder: Path) -> dict[str, int]:
    """Names of the stacks that were written so far, and their ranks."""
    return {path.name: int(path.name.split("-")[1]) for path in folder.glob("rank-*-process-*.txt")}
