"""What the events of a run say of it so far: the state behind every live view."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

RECENT_STEPS = 50
TRACE_LENGTH = 512
WARNINGS_KEPT = 3
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass
class Trace:
    """A history of bounded length: when it is full, neighbours are averaged and every further point covers more."""

    points: list[float] = field(default_factory=list)
    _stride: int = 1
    _open: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Append a value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._open.append(value)
        if len(self._open) == self._stride:
            self.points.append(sum(self._open) / self._stride)
            self._open = []
        if len(self.points) == TRACE_LENGTH:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(first + second) / 2 for first, second in pairs]
            self._stride *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """Positive values as a line of at most ``width`` blocks, on a logarithmic scale."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(number * len(values) / count) for number in range(count + 1)]
    parts = [values[first:last] for first, last in pairwise(edges)]
    heights = [math.log(max(sum(part) / len(part), 1e-30)) for part in parts]
    low, high = min(heights), max(heights)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((height - low) * scale)] for height in heights)


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """The newest sample of a node. time: seconds since 1970. values: percent, megabytes, as MLflow names them."""

    time: float
    values: Mapping[str, float]


@dataclass
class RunProgress:
    """Folds events of a run, in their order."""

    total_steps: int = 0
    epochs: int = 0
    world: int = 0
    device: str = ""
    attempts: int = 0
    step: int = 0
    losses: Trace = field(default_factory=Trace)
    nodes: dict[str, NodeHealth] = field(default_factory=dict)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS_KEPT))
    epoch: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the last whole epoch; empty before its end."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of the model that was scored last beside the training; empty before."""
    scored_step: int = 0
    """Its step."""
    recent: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    """Metrics of the last steps of this attempt."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        match event["kind"]:
            case "attempt":
                self._begin(event)
            case "warning":
                self.warnings.append(event["text"])
            case "step":
                self.step = event["step"]
                self.recent.append(event["metrics"])
                self.losses.add(event["metrics"]["train/loss"])
            case "epoch":
                self.epoch = event["metrics"]
            case "scores":
                self.scores, self.scored_step = event["metrics"], event["step"]
            case "system":
                self._add_sample(event)

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.attempts += 1
        self.step, self.total_steps, self.world = event["step"], event["total_steps"], event["world"]
        self.epochs, self.device = event.get("epochs", 0), event["device"]
        self.recent.clear()
        self.nodes.clear()

    def _add_sample(self, event: Mapping[str, Any]) -> None:
        by_node: dict[str, dict[str, float]] = {}
        for key, value in event["metrics"].items():
            _, node, name = key.split("/", 2)
            by_node.setdefault(node, {})[name] = value
        self.nodes |= {node: NodeHealth(event["time"], values) for node, values in by_node.items()}

    @property
    def last(self) -> Mapping[str, float]:
        """Metrics of the newest step; empty before it."""
        return self.recent[-1] if self.recent else {}

    @property
    def step_ms(self) -> float:
        """Mean over the recent steps; 0 before the first."""
        return sum(metrics["perf/step_ms"] for metrics in self.recent) / max(len(self.recent), 1)

    @property
    def tokens_per_s(self) -> float:
        """Valid tokens of all ranks over the time of the recent steps."""
        return self._valid / max(self.step_ms * len(self.recent) / 1e3, 1e-9)

    @property
    def _valid(self) -> float:
        return sum(metrics["perf/tokens_per_s"] * metrics["perf/step_ms"] / 1e3 for metrics in self.recent)

    @property
    def padding(self) -> float:
        """Share of padding among the tokens computed in the recent steps."""
        computed = sum(
            metrics["perf/tokens_per_s"] * metrics["perf/step_ms"] / 1e3 / (1.0 - metrics["data/padding_ratio"])
            for metrics in self.recent
        )
        return 1.0 - self._valid / computed if computed else 0.0

    @property
    def wait_ms(self) -> float:
        """Mean time a recent step waited for data."""
        return sum(metrics["perf/data_wait_ms"] for metrics in self.recent) / max(len(self.recent), 1)

    @property
    def seconds_left(self) -> float:
        """Until the last step, at the speed of the recent ones."""
        return (self.total_steps - self.step) * self.step_ms / 1e3


def scores_in_words(metrics: Mapping[str, float]) -> str:
    """What the metrics of a scored model say in short; empty where they say nothing over all sets."""
    parts = []
    if "val/loss" in metrics:
        parts.append(f"validation loss {metrics['val/loss']:.4f}, NMSE {metrics['val/nmse_db/avg']:.2f} dB")
    if "eval/nmse_db/avg" in metrics:
        parts.append(f"zero-shot NMSE {metrics['eval/nmse_db/avg']:.2f} dB")
    if "fullshot/nmse_db/avg" in metrics:
        parts.append(f"full-shot NMSE {metrics['fullshot/nmse_db/avg']:.2f} dB")
    return "; ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
