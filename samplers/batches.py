"""A torch sampler over a schedule, with the state of torchdata's StatefulDataLoader.

A DataLoader asks its sampler for more than has been trained on (workers prefetch), so what was yielded is no measure of
progress. The consumer says what it has used: it calls :meth:`ScheduledBatches.consumed` after each optimizer step, and
the state holds the cursor after the last consumed step. A new iterator starts at that cursor.
"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from channels.errors import UserError
from samplers.catalogue import Catalogue
from samplers.plan import Plan
from samplers.schedule import Schedule, Slice

Batch = tuple[int, int, tuple[Slice, ...]]
STATE_VERSION = 1


class ScheduledBatches(Sampler[Batch]):
    """(epoch, step, slices) of one rank from the cursor to the end of the run.

    Give it to a DataLoader as ``sampler`` with ``batch_size=None``; the data set is then indexed with one such triple a
    step. The world size may differ from the one that wrote the state. Raises UserError unless it divides the
    partitions.
    """

    def __init__(self, schedule: Schedule, rank: int, world: int) -> None:
        schedule.check_world(world, rank)
        self.schedule = schedule
        self.rank = rank
        self.world = world
        self._cursor = (0, 0)

    @property
    def cursor(self) -> tuple[int, int]:
        """(epoch, step) of the next step to consume; (epochs, 0) after the last one."""
        return self._cursor

    def __iter__(self) -> Iterator[Batch]:
        """Steps from the cursor on."""
        return self.schedule.iterate(*self._cursor, self.rank, self.world)

    def __len__(self) -> int:
        """Steps that are left from the cursor on."""
        epoch, step = self._cursor
        return sum(self.schedule.steps(later) for later in range(epoch, self.schedule.epochs)) - step

    def consumed(self, epoch: int, step: int) -> None:
        """Note that a step has been trained on; steps are consumed in order."""
        assert (epoch, step) == self._cursor, f"step {(epoch, step)} consumed, cursor at {self._cursor}"
        self._cursor = (epoch, step + 1) if step + 1 < self.schedule.steps(epoch) else (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Cursor and everything that decides the schedule, as plain data for JSON or torch.save."""
        epoch, step = self._cursor
        return {
            "version": STATE_VERSION,
            "epoch": epoch,
            "step": step,
            "settings": self.schedule.settings(),
            "plan": self.schedule.plan.to_json(),
            "catalogue": self.schedule.catalogue.to_json(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the cursor of a state, on any world size.

        Raises UserError where the catalogue, the plan or a setting is another one (naming the difference), and for a
        cursor beyond the run.
        """
        version = state.get("version")
        if version != STATE_VERSION:
            raise UserError(f"version {version!r}, expected {STATE_VERSION}", where="sampler state")
        self._check_settings(state)
        cursor = (int(state["epoch"]), int(state["step"]))
        if cursor != (self.schedule.epochs, 0):
            self.schedule.check_cursor(*cursor)
        self._cursor = cursor

    def _check_settings(self, state: dict[str, Any]) -> None:
        before, now = state["settings"], self.schedule.settings()
        if before == now:
            return
        if before["catalogue"] != now["catalogue"]:
            change = Catalogue.from_json(state["catalogue"]).describe_difference(self.schedule.catalogue)
        elif before["plan"] != now["plan"]:
            change = Plan.from_json(state["plan"]).describe_difference(self.schedule.plan)
        else:
            changed = [name for name in now if before.get(name) != now[name]]
            change = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
        raise UserError(
            f"belongs to another schedule: {change}", where="sampler state", mend="start a new run for the change"
        )
