"""From which preset, with how many samples a set, a channel store is made."""

import shlex
from pathlib import Path
from typing import Annotated

from pydantic import Field

from channels.catalogue import Counts
from orchestrator.spec.section import Positive, Section

Samples = Annotated[int, Field(ge=0)]


class StorePreset(Section):
    """The options of ``wavetrain channels make``, with the same defaults."""

    name: str
    """Catalogue: demo, hetercsi, motivation or wimamba."""
    sets: tuple[str, ...] | Positive | None = None
    """Names of its sets, the first N pre-training ones with all held-out ones, or all."""
    train: Samples = 1000
    """Training samples of each pre-training set."""
    val: Samples = 64
    """Validation samples of each pre-training set."""
    test: Samples = 128
    """Test samples of each held-out set."""
    zeroshot_train: Samples = 0
    """Training samples of each held-out set, for jobs with ``data.target``."""
    zeroshot_val: Samples = 0
    """Their validation samples."""
    seed: Samples = 0
    """Of all draws."""

    @property
    def chosen(self) -> str | None:
        """``sets`` as the command line takes it."""
        return ",".join(self.sets) if isinstance(self.sets, tuple) else None if self.sets is None else str(self.sets)

    @property
    def counts(self) -> Counts:
        """Samples of each set."""
        return Counts(self.train, self.val, self.test, self.zeroshot_train, self.zeroshot_val)

    def command(self, store: Path) -> str:
        """The command that makes the store, to be pasted. store: its folder."""
        here = store.relative_to(Path.cwd()) if store.is_relative_to(Path.cwd()) else store
        given = {"preset": self.name, "store": str(here), "sets": self.chosen, "train": self.train, "val": self.val}
        given |= {"test": self.test, "zeroshot-train": self.zeroshot_train or None}
        given |= {"zeroshot-val": self.zeroshot_val or None, "seed": self.seed or None}
        words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
        return shlex.join(["wavetrain", "channels", "make", *words])
