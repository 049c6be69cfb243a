"""How many bytes states may still take in a machine's memory: of its shared memory, its RAM and its control groups.

A container or a Slurm job may have less than the machine has, and what lies in shared memory counts against that.
"""

import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60
"""Version 1 writes the largest multiple of a page where there is no limit."""
BLOCK_BYTES = 512
ROOM = 0.5
"""Share of the free memory of a machine that states may take."""
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
VERSION_2 = ("memory.max", "memory.current", "")
"""Files of limit and use, and how lines of ``memory.stat`` begin that are about a group and those inside it."""


def room_in(folder: Path) -> int:
    """Bytes that a folder in the memory of this machine has room for; 0 where there is none."""
    if not folder.is_dir():
        return 0
    there = os.statvfs(folder)
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    room = min(there.f_bavail * there.f_frsize, int(available.split()[1]) * 1024)
    membership = Path("/proc/self/cgroup")
    left = left_in_groups(membership.read_text()) if membership.exists() else None
    return room if left is None else max(min(room, left), 0)


def held_in(folder: Path) -> int:
    """Bytes that the files of a folder take."""
    return sum(path.stat().st_blocks for path in folder.iterdir()) * BLOCK_BYTES if folder.is_dir() else 0


def left_in_groups(membership: str, root: Path = CONTROL_GROUPS) -> int | None:
    """Least of limit minus use of a process's memory control groups and those around them; None without a limit.

    membership: text of ``/proc/self/cgroup``. Files of the page cache, which the kernel gives back, count as free.
    """
    left = [_left_in(group, *names) for group, names in _groups(membership, root)]
    return min((found for found in left if found is not None), default=None)


def _groups(membership: str, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of a process's groups and of those around them, with the names of their files."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            # Version 2, which lies beside version 1 on some systems, then without memory.
            top, names = root, VERSION_2
        elif "memory" in controllers.split(","):
            top, names = root / "memory", VERSION_1
        else:
            continue
        own = Path(path.strip("/"))
        # In a container the path may be that of the host; then its own group is the top.
        for part in (own, *own.parents):
            yield top / part, names


def _left_in(group: Path, limit: str, use: str, prefix: str) -> int | None:
    try:
        most = (group / limit).read_text().strip()
        if most == "max" or int(most) >= NO_LIMIT:
            return None
        used = int((group / use).read_text())
    except OSError:
        # The top of version 2 has no such files, nor has a group that this container does not see.
        return None
    statistics = group / "memory.stat"
    amounts = dict(line.split() for line in statistics.read_text().splitlines()) if statistics.exists() else {}
    return int(most) - used + sum(int(amounts.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
