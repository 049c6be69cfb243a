"""Whether a disk has room for checkpoints, looked up before it is full."""

import shutil
from pathlib import Path

CHECKPOINTS = 2
"""How many more must fit: while one is written, the one before it is still there."""

KEPT_FREE = 2**20
"""Bytes that a checkpoint leaves for what else a run writes beside it."""


def has_room(folder: Path, size: int) -> bool:
    """Whether so many bytes can be written in a folder without taking the last ones of the disk."""
    return shutil.disk_usage(folder).free >= size + KEPT_FREE


def shortage(checkpoint: Path) -> str | None:
    """What is wrong with the free space beside a checkpoint, or None."""
    needed = CHECKPOINTS * sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    free = shutil.disk_usage(checkpoint).free
    if free >= needed:
        return None
    return (
        f"{free / 1e6:,.0f} MB are free at {checkpoint.parent}, {CHECKPOINTS} checkpoints need {needed / 1e6:,.0f} MB"
    )
