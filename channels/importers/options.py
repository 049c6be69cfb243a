"""What the user says about a source; the rest is inferred."""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.spec_file import GivenParameters
from channels.manifest import ROLES


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """What overrides inference.

    format: name of the only reader to try. axes, key: of the array of channels. role: of all sets. name: of the set, or
    before the names of several. given: parameters. val_share: part of the training samples of a set without splits that
    becomes its split val; None takes the usual one of the format. skip_zero: leave samples out that are zero, too weak
    for single precision or not finite. antennas, subcarriers, spacing_khz, slots: what is computed where a source holds
    paths, taps or delays; None takes the usual ones. store: for messages that say what to try next.
    """

    format: str | None = None
    axes: Axes | None = None
    key: str | None = None
    role: str | None = None
    name: str | None = None
    given: GivenParameters = field(default_factory=GivenParameters)
    val_share: float | None = None
    skip_zero: bool = False
    antennas: int | None = None
    subcarriers: int | None = None
    spacing_khz: float | None = None
    slots: int | None = None
    store: Path | None = None

    def __post_init__(self) -> None:
        """Raises UserError for a role that is none and a share that is not in [0, 1)."""
        if self.role is not None and self.role not in ROLES:
            raise UserError(f"{self.role!r} is not a role", where="--role", mend=f"take {' or '.join(ROLES)}")
        if self.val_share is not None and not 0 <= self.val_share < 1:
            raise UserError(f"{self.val_share!r} is not a share of [0, 1)", where="--val-share")

    def command_for(self, source: Path) -> str:
        """The command that imports a source, for a message that adds an option to it."""
        here = Path(os.path.relpath(source))
        shown = source if here.parts[:1] == ("..",) else here
        store = shlex.quote(str(self.store)) if self.store else "DIR"
        return f"wavetrain channels import {shlex.quote(str(shown))} --store {store}"
