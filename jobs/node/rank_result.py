"""What the ranks' check reports to the process that starts it, which needs no torch."""

import statistics
from dataclasses import dataclass

BAD_DEVICE = 3
"""Exit code of a rank whose own device does not work."""
SUSPICIOUS = 0.5
"""A node or rail slower than this share of the median one is named."""


@dataclass(frozen=True, slots=True)
class Rail:
    """One rank of a node and the way of its data to the other nodes. nic: the network card beside it, where known.

    gb_s: best exchange with the same rank of another node, while all ranks of all nodes exchange at once.
    """

    host: str
    rank: int
    local: int
    nic: str | None
    gb_s: float

    def __str__(self) -> str:
        return f"{self.host} rank {self.rank} (local {self.local}, NIC {self.nic or 'unknown'})"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """all_reduce_gb_s: of the bus, bytes x 2(W-1)/W / s. nodes: best exchange of every node in GB/s, where several.

    rails: of all ranks, where nodes have several.
    """

    world: int
    all_reduce_gb_s: float
    nodes: dict[str, float]
    rails: tuple[Rail, ...] = ()

    @property
    def slowest(self) -> str | None:
        """The node with the slowest best exchange; two nodes alone have only each other."""
        return min(self.nodes, key=lambda name: self.nodes[name]) if len(self.nodes) > 2 else None

    @property
    def is_suspicious(self) -> bool:
        """Whether the slowest node is far below the others."""
        name = self.slowest
        return name is not None and self.nodes[name] < SUSPICIOUS * statistics.median(self.nodes.values())

    @property
    def slow_rails(self) -> list[Rail]:
        """Rails far below the others, the slowest first; two nodes alone have only each other."""
        if len(self.nodes) < 3 or not self.rails:
            return []
        usual = statistics.median(rail.gb_s for rail in self.rails)
        return sorted((rail for rail in self.rails if rail.gb_s < SUSPICIOUS * usual), key=lambda rail: rail.gb_s)
