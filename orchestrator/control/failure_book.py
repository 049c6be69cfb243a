"""Keeps account of a run's failures while its worker group lives: writes them down, adjusts, waits, decides."""

import time
from collections.abc import Mapping
from contextlib import suppress

from channels.errors import UserError
from orchestrator.control.failure_policy import Kind, classify, decide
from orchestrator.monitoring.watchdog import stack_files
from orchestrator.run.adjustments import read_adjustments, write_adjustments
from orchestrator.run.events import EventWriter, repair
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import FailuresSection

WAIT_SLICE_S = 0.5


class FailureBook:
    """One life of the controller; picklable, because Ray Train's controller is a process of its own."""

    def __init__(self, directory: RunDirectory, section: FailuresSection) -> None:
        self._directory = directory
        self._section = section
        self._past: list[Kind] = []
        self._stacks = stack_files(directory.stacks)

    def fail(self, failures: Mapping[int, BaseException]) -> bool:
        """Whether to try again after these failures by rank (-1: of no rank); returns when it is time to."""
        before, self._stacks = self._stacks, stack_files(self._directory.stacks)
        hung = sorted(rank for file, rank in self._stacks.items() if file not in before)
        failure, error = classify(failures, hung)
        self._past.append(failure.kind)
        adjustments = read_adjustments(self._directory.adjustments)
        decision = decide(self._section, self._past, error, adjustments)
        if decision.retry and decision.adjustments != adjustments:
            write_adjustments(self._directory.adjustments, decision.adjustments)
        wait_s = decision.wait_s if decision.retry else None
        # A full disk takes no record, and must not hide what failed: often that very disk.
        with suppress(OSError, UserError):
            repair(self._directory.failures)
            with EventWriter(self._directory.failures) as book:
                book.write("failure", failure=failure.to_json(), retry=decision.retry, wait_s=wait_s)
                book.sync()
        if decision.retry:
            self._wait(decision.wait_s)
        return decision.retry

    def _wait(self, seconds: float) -> None:
        """Let time pass, but not where the run was asked to stop: the next attempt saves and ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._directory.stop_request.exists():
            time.sleep(min(WAIT_SLICE_S, max(until - time.monotonic(), 0.0)))
