"""A validation split of a set that has none: its last samples or, where positions are known, one end of the scene."""

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from channels.importers.found import FoundSet
from channels.importers.reading import ChannelArray, Label

_POSITION = re.compile(r"pos|position|position_m|positions|loc|location|rx_pos|ue_pos|xyz|coordinates", re.IGNORECASE)
_ROWS_AT_ONCE = 2**20


def hold_out(found: FoundSet, array: ChannelArray, share: float) -> FoundSet:
    """The set with its samples under their role: test of a held-out set, else train and, of a share above 0, val.

    Neighbouring users have nearly the same channel, so with positions val is one end of the scene's longest side; the
    samples of a split stay in the order of the file.
    """
    if found.role == "zeroshot":
        return replace(found, splits={"test": array.split()})
    held = int(share * array.count)
    if not held:
        return replace(found, splits={"train": array.split()})
    position = next((label for name, label in array.labels.items() if _POSITION.fullmatch(name)), None)
    origin = {**found.origin, "val_share": share}
    if position is None or not _is_coordinates(position):
        rows = range(array.count)
        splits = {"train": array.split(rows[:-held]), "val": array.split(rows[-held:])}
        return replace(found, splits=splits, origin=origin, notes=(*found.notes, "val: the last samples"))
    order = np.argsort(_longest_side(position), kind="stable")
    splits = {"train": array.split(np.sort(order[:-held])), "val": array.split(np.sort(order[-held:]))}
    return replace(found, splits=splits, origin=origin, notes=(*found.notes, "val: one end of the scene"))


def _is_coordinates(label: Label) -> bool:
    """Whether a label has real coordinates, one or more, of every sample."""
    shape = label.array.shape
    return label.axis == 0 and len(shape) == 2 and shape[1] > 0 and label.array.dtype.kind in "iuf"


def _longest_side(position: Label) -> NDArray[np.float32]:
    """The coordinate that extends furthest, of every sample."""
    count = position.array.shape[0]
    with position.array.opened() as slices:
        parts = [slices(0, start, min(start + _ROWS_AT_ONCE, count)) for start in range(0, count, _ROWS_AT_ONCE)]
    with np.errstate(over="ignore"):
        values = np.nan_to_num(np.concatenate(parts).astype(np.float32))
        return values[:, int(np.argmax(np.ptp(values, axis=0)))]
