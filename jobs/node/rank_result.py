"""What the ranks' check reports to the process that starts it, which needs no torch."""

import statistics
from dataclasses import dataclass

BAD_DEVICE = 3
"""Exit code of a rank whose own device does not work."""
SUSPICIOUS = 0.5
"""A node slower than this share of the median node is named."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """all_reduce_gb_s: of the bus, bytes x 2(W-1)/W / s. nodes: best exchange of every node in GB/s, where several."""

    world: int
    all_reduce_gb_s: float
    nodes: dict[str, float]

    @property
    def slowest(self) -> str | None:
        """The node with the slowest best exchange; two nodes alone have only each other."""
        return min(self.nodes, key=lambda name: self.nodes[name]) if len(self.nodes) > 2 else None

    @property
    def is_suspicious(self) -> bool:
        """Whether the slowest node is far below the others."""
        name = self.slowest
        return name is not None and self.nodes[name] < SUSPICIOUS * statistics.median(self.nodes.values())
