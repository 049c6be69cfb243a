"""Keeps account of the failures of a run's worker groups: writes them down, adjusts, decides."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

from channels.errors import UserError
from orchestrator.control.failure_policy import Kind, classify, decide
from orchestrator.monitoring.watchdog import stack_files
from orchestrator.run.adjustments import read_adjustments, write_adjustments
from orchestrator.run.events import EventWriter, repair
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import FailuresSection


class FailureBook:
    """The failures since one start of the controller; picklable, because Ray Train's controller has its own process."""

    def __init__(self, directory: RunDirectory, section: FailuresSection) -> None:
        self._directory = directory
        self._section = section
        self._past: list[Kind] = []

    def fail(self, failures: Mapping[int, BaseException]) -> bool:
        """Whether there is another attempt after these failures by rank (-1: of no rank); its wait is in the record."""
        hung = sorted(set(stack_files(self._directory.stacks).values()))
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
        return decision.retry


def set_aside_stacks(folder: Path) -> None:
    """Move stacks of earlier attempts into a folder of their own, so that no later failure is taken for their hang."""
    names = sorted(stack_files(folder))
    if not names:
        return
    aside = next(path for number in count(1) if not (path := folder / f"earlier-{number}").exists())
    # Where the disk is full, a wrong kind of failure is the lesser evil.
    with suppress(OSError):
        aside.mkdir()
        for name in names:
            (folder / name).rename(aside / name)
