"""Keeps account of the failures of a run's worker groups: writes them down, adjusts, decides."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from channels.errors import UserError
from orchestrator.control.failure_policy import MAY_BE_DEVICE, Kind, blame_devices, classify, decide
from orchestrator.monitoring.watchdog import stack_files
from orchestrator.run.adjustments import read_adjustments, write_adjustments
from orchestrator.run.events import EventWriter, repair
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.failures import FailuresSection


class FailureBook:
    """The failures since one start of the controller; picklable, because Ray Train's controller has its own process.

    check_devices: has all nodes try their GPUs, and gives what is wrong, by node; None where there are none.
    replaces_nodes: whether the launcher starts the run again without the nodes that are named in a failure.
    """

    def __init__(
        self,
        directory: RunDirectory,
        section: FailuresSection,
        check_devices: Callable[[], Mapping[str, str]] | None = None,
        *,
        replaces_nodes: bool = False,
    ) -> None:
        self._directory = directory
        self._section = section
        self._check_devices, self._replaces_nodes = check_devices, replaces_nodes
        self._past: list[Kind] = []

    def fail(self, failures: Mapping[int, BaseException]) -> bool:
        """Whether there is another attempt after these failures by rank (-1: of no rank); its wait is in the record."""
        hung = sorted(set(stack_files(self._directory.stacks).values()))
        failure, error = classify(failures, hung)
        if self._check_devices is not None and failure.kind in MAY_BE_DEVICE:
            failure = blame_devices(failure, self._check_devices())
        self._past.append(failure.kind)
        adjustments = read_adjustments(self._directory.adjustments)
        decision = decide(self._section, self._past, error, adjustments)
        if failure.kind is Kind.DEVICE and not self._replaces_nodes:
            # The next attempt would compute on the same device.
            decision = replace(decision, retry=False)
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
    """Move what earlier attempts left into a folder of their own, so that no later failure is taken for their hang."""
    names = sorted(path.name for path in folder.glob("*") if path.is_file())
    if not names:
        return
    aside = next(path for number in count(1) if not (path := folder / f"earlier-{number}").exists())
    # Where the disk is full, a wrong kind of failure is the lesser evil.
    with suppress(OSError):
        aside.mkdir()
        for name in names:
            (folder / name).rename(aside / name)
