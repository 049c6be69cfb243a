"""Where a PCI device sits in a machine, as sysfs says: NUMA node, CPUs beside it, network cards nearest to it."""

import os
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys")
CARDS_OF_NCCL = "NCCL_IB_HCA"
"""Names the RDMA cards that a rank may use; ``=`` before them asks for these very names and ports."""
ACTIVE = "4: ACTIVE"
"""State of a port that has a link and may send (``ports/N/state`` of a card in sysfs)."""
NVIDIA, DISPLAY = "0x10de", "0x03"
"""Vendor of a PCI device, and the beginning of the class of one that is a GPU (3D or display controller)."""


@dataclass(frozen=True, slots=True)
class Place:
    """numa: None where the machine has one memory for all. cpus: those beside it. nics: RDMA or network cards."""

    numa: int | None
    cpus: frozenset[int]
    nics: tuple[str, ...]

    def __str__(self) -> str:
        numa = "no NUMA node" if self.numa is None else f"NUMA node {self.numa}"
        return f"{numa}, CPUs {as_ranges(self.cpus) or 'unknown'}, NIC {' '.join(self.nics) or 'unknown'}"


@dataclass(frozen=True, slots=True)
class _Nearest:
    """Cards that are equally near, by PCI address. shared: names that their paths have in common with the device's."""

    shared: int
    same_numa: bool
    names: tuple[str, ...]


def place_of(pci: str, sysfs: Path = SYSFS) -> Place:
    """Of the device at an address such as ``0000:1b:00.0``; nothing is known of one that sysfs does not list."""
    folder = sysfs / "bus" / "pci" / "devices" / pci
    numa = _text(folder / "numa_node")
    return Place(
        int(numa) if numa and int(numa) >= 0 else None,
        frozenset(parse_ranges(_text(folder / "local_cpulist"))),
        _nearest_nics(folder, sysfs),
    )


def own_card(pci: str, sysfs: Path = SYSFS) -> str | None:
    """The one RDMA card that is a GPU's own, with its active ports, as in ``mlx5_0:1``; None where none is near.

    Near is a card below the same host bridge or on the same NUMA node; those that share the most bridges are nearest.
    GPUs that have the same cards nearest are dealt them in the order of PCI addresses, whichever of them a job may use,
    so that the n-th GPU of every node of one make has the same card. Instead of a card without a link a GPU gets the
    next one, and the others keep theirs.
    """
    near = _near_rdma(pci, sysfs)
    alike = sorted({gpu for gpu in _gpus(sysfs) if _near_rdma(gpu, sysfs) == near} | {pci})
    first = alike.index(pci)
    for number in range(len(near)):
        card = near[(first + number) % len(near)]
        if ports := _active_ports(sysfs / "class" / "infiniband" / card):
            return ",".join(f"{card}:{port}" for port in ports)
    return None


def use_card(card: str | None, environment: MutableMapping[str, str]) -> None:
    """Let NCCL, before it starts, use this card only (of :func:`own_card`), unless the user has named cards."""
    if card is not None:
        environment.setdefault(CARDS_OF_NCCL, f"={card}")


def _gpus(sysfs: Path) -> list[str]:
    """PCI addresses of all NVIDIA GPUs of the machine."""
    devices = (sysfs / "bus" / "pci" / "devices").glob("*")
    return [
        path.name for path in devices if _text(path / "vendor") == NVIDIA and _text(path / "class").startswith(DISPLAY)
    ]


def _near_rdma(pci: str, sysfs: Path) -> tuple[str, ...]:
    """The nearest RDMA cards of a device, where they are near."""
    folder = sysfs / "bus" / "pci" / "devices" / pci
    if not folder.exists():
        return ()
    found = _nearest(folder, sysfs, "infiniband")
    shares_a_bridge = found.shared > len((sysfs / "devices").resolve().parts)
    return found.names if shares_a_bridge or found.same_numa else ()


def _active_ports(card: Path) -> list[int]:
    return sorted(int(port.name) for port in (card / "ports").glob("*") if _text(port / "state") == ACTIVE)


def _nearest_nics(folder: Path, sysfs: Path) -> tuple[str, ...]:
    """RDMA cards (InfiniBand, RoCE) that are nearest to a device, where the machine has any; else network cards."""
    if not folder.exists():
        return ()
    return _nearest(folder, sysfs, "infiniband").names or _nearest(folder, sysfs, "net").names


def _nearest(folder: Path, sysfs: Path, kind: str) -> _Nearest:
    """Of a kind of cards those that share the most bridges with a device, and among these those of its NUMA node."""
    own, numa = folder.resolve(), _text(folder / "numa_node")
    found: dict[tuple[int, bool], list[tuple[str, str]]] = {}
    for card in (sysfs / "class" / kind).glob("*"):
        path = (card / "device").resolve()
        if path.exists():
            near = _shared(own, path), _text(path / "numa_node") == numa
            found.setdefault(near, []).append((path.name, card.name))
    if not found:
        return _Nearest(0, False, ())
    most = max(found)
    return _Nearest(*most, tuple(name for _, name in sorted(found[most])))


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
