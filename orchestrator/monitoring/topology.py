"""Where a PCI device sits in a machine, as sysfs says: NUMA node, CPUs beside it, network cards nearest to it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys")


@dataclass(frozen=True, slots=True)
class Place:
    """numa: None where the machine has one memory for all. cpus: those beside it. nics: RDMA or network cards."""

    numa: int | None
    cpus: frozenset[int]
    nics: tuple[str, ...]

    def __str__(self) -> str:
        numa = "no NUMA node" if self.numa is None else f"NUMA node {self.numa}"
        return f"{numa}, CPUs {as_ranges(self.cpus) or 'unknown'}, NIC {' '.join(self.nics) or 'unknown'}"


def place_of(pci: str, sysfs: Path = SYSFS) -> Place:
    """Of the device at an address such as ``0000:1b:00.0``; nothing is known of one that sysfs does not list."""
    folder = sysfs / "bus" / "pci" / "devices" / pci
    numa = _text(folder / "numa_node")
    return Place(
        int(numa) if numa and int(numa) >= 0 else None,
        frozenset(parse_ranges(_text(folder / "local_cpulist"))),
        _nearest_nics(folder, sysfs),
    )


def _nearest_nics(folder: Path, sysfs: Path) -> tuple[str, ...]:
    """Cards that share the most bridges with a device; RDMA cards (InfiniBand, RoCE) where there are any."""
    if not folder.exists():
        return ()
    for kind in ("infiniband", "net"):
        cards = {card.name: (card / "device").resolve() for card in (sysfs / "class" / kind).glob("*")}
        shared = {name: _shared(folder.resolve(), path) for name, path in cards.items() if path.exists()}
        if shared:
            most = max(shared.values())
            return tuple(sorted(name for name, count in shared.items() if count == most))
    return ()


def _shared(one: Path, other: Path) -> int:
    """Names at the beginning of two paths of sysfs that are the same: bridges above both devices."""
    return len(Path(os.path.commonpath([one, other])).parts)


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def parse_ranges(text: str) -> list[int]:
    """``0-3,8`` as 0, 1, 2, 3, 8."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def as_ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 3, 8 as ``0-3,8``."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)


def cpus_for_rank(beside: frozenset[int], allowed: frozenset[int], *, on_first_node: bool) -> frozenset[int]:
    """CPUs on which a rank runs: those beside its GPU that it may use; all it may use where none is.

    On the first node the lowest CPU that a process may use stays free for the controller, Ray's head and Slurm.
    """
    spared = frozenset([min(allowed)]) if on_first_node and len(allowed) > 1 else frozenset[int]()
    free = allowed - spared
    return (beside & free) or free


def bind_process(cpus: frozenset[int]) -> None:
    """Let every thread of this process run on these CPUs only; threads that it starts later do the same."""
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cpus)
        except ProcessLookupError:
            # The thread has ended meanwhile.
            continue
