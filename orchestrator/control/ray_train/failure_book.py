"""Keeps account of the failures of a run's worker groups: writes them down, adjusts, decides."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from channels.errors import UserError
from orchestrator.control.failure_policy import MAY_BE_DEVICE, Failure, Kind, blame_devices, classify, decide
from orchestrator.monitoring.watchdog import stack_files
from orchestrator.run.adjustments import read_adjustments, write_adjustments
from orchestrator.run.events import EventWriter, repair
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.failures import FailuresSection


class FailureBook:
    """The failures since one start of the controller; picklable, because Ray Train's controller has its own process.

    check_devices: has all nodes try their GPUs but those with these names, which are left out, and gives what is wrong,
    by node; None where there are none.
    replaces_nodes: whether the launcher starts the run again without the nodes that are named in a failure.
    lacks_without: what the cluster lacks where nodes of these names are left out, None for nothing; itself None where
    there are no other nodes.
    """

    def __init__(
        self,
        directory: RunDirectory,
        section: FailuresSection,
        check_devices: Callable[[Collection[str]], Mapping[str, str]] | None = None,
        *,
        replaces_nodes: bool = False,
        lacks_without: Callable[[Collection[str]], str | None] | None = None,
    ) -> None:
        self._directory = directory
        self._section = section
        self._check_devices, self._replaces_nodes = check_devices, replaces_nodes
        self._lacks_without = lacks_without
        self._past: list[Kind] = []
        self._left_out: dict[str, str] = {}

    def fail(self, failures: Mapping[int, BaseException]) -> bool:
        """Whether there is another attempt after these failures by rank (-1: of no rank); its wait is in the record."""
        hung = sorted(set(stack_files(self._directory.stacks).values()))
        failure, error = classify(failures, hung)
        if self._check_devices is not None and failure.kind in MAY_BE_DEVICE:
            broken = self._check_devices(self._left_out.keys())
            failure = blame_devices(failure, broken)
        self._past.append(failure.kind)
        adjustments = read_adjustments(self._directory.adjustments)
        decision = decide(self._section, self._past, error, adjustments)
        if failure.kind is Kind.DEVICE and not self._replaces_nodes:
            failure, is_avoided = self._leave_out(failure)
            decision = replace(decision, retry=decision.retry and is_avoided)
        if decision.retry and decision.adjustments != adjustments:
            write_adjustments(self._directory.adjustments, decision.adjustments)
        wait_s = decision.wait_s if decision.retry else None
        # A full disk takes no record, and must not hide what failed: often that very disk.
        with suppress(OSError, UserError):
            repair(self._directory.failures)
            with EventWriter(self._directory.failures) as book:
                book.write(
                    "failure", failure=failure.to_json(), retry=decision.retry, wait_s=wait_s, left_out=self._left_out
                )
                book.sync()
        # After the record, with which a controller knows that the ranks are gone.
        self._directory.placed.unlink(missing_ok=True)
        return decision.retry

    def _leave_out(self, failure: Failure) -> tuple[Failure, bool]:
        """Leave the nodes with a broken device out from now on; whether the next attempt does not compute there."""
        if self._lacks_without is None or not failure.bad_nodes:
            return failure, False
        self._left_out |= failure.bad_nodes
        lacking = self._lacks_without(self._left_out)
        if lacking is None:
            return failure, True
        return replace(failure, cause=f"{failure.cause}; {lacking}"), False


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
