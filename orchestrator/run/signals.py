"""What every rank lets the others know once a step, inside the reduction that the step needs anyway."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """Flags of one rank (0 or 1 each), or their sums over the ranks."""

    stop: int = 0
    """Save after this step and end."""
    save: int = 0
    """Save after this step and go on."""
    pause: int = 0
    """Save after this step and wait: the group is about to be resized."""
    written: int = 0
    """The share of the pending training state is on the disk."""
    unwritten: int = 0
    """It could not be written: the disk is full."""

    @property
    def ask_to_save(self) -> bool:
        """Whether a rank wants the state saved."""
        return bool(self.stop or self.save or self.pause)

    def values(self) -> tuple[int, ...]:
        """The numbers in order."""
        return astuple(self)


SILENCE = Signals()
