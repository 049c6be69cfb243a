"""The store of a job: opened, or as its preset says while it is not there yet."""

from pathlib import Path

from channels.catalogue import select_sets
from channels.errors import UserError
from channels.files import is_there
from channels.presets import load_preset
from channels.specified import specified_store
from channels.store import ChannelStore
from orchestrator.spec.store_preset import StorePreset


def open_store(path: Path, preset: StorePreset | None) -> ChannelStore:
    """The store itself.

    Raises:
        UserError: it is not there, with the command that makes it where the job names a preset; or it is damaged.
    """
    if preset is not None and not is_there(path):
        mend = f"make it: {preset.command(path)} (or wavetrain train SPEC --make-data)"
        raise UserError("no such store", where=str(path), mend=mend)
    return ChannelStore.open(path)


def store_to_plan(path: Path, preset: StorePreset | None) -> ChannelStore | None:
    """What the store will hold where it is not there yet and the job names a preset; None otherwise.

    Raises:
        UserError: there is no such preset, or it has no such set.
    """
    if preset is None or is_there(path):
        return None
    chosen = select_sets(load_preset(preset.name), preset.chosen)
    return specified_store(path, chosen, preset.counts)
