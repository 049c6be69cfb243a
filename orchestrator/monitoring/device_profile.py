"""Where a GPU's time went: every moment of a profile belongs to one part, whatever ran side by side.

Only what ran on the device counts, once: torch.profiler also gives every kernel's time to the operation that launched
it and to the ranges around that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.monitoring.profile_parts import DATA_WAIT, part_of

PRIORITY = ("attention", "optimizer", "compute", "communication", "data wait")
"""Which part has a moment that several share: communication counts where nothing computes, waits where nothing runs."""


@dataclass(frozen=True, slots=True)
class Span:
    """What ran from ``start`` to ``end`` (microseconds). name: the operation that launched it, or the kernel itself."""

    name: str
    part: str
    start: float
    end: float


def device_spans(profile: Any) -> list[Span]:
    """Kernels and copies on the device, and the waits for data on the host, of a finished torch.profiler.profile."""
    operations = {event.id: event for event in profile.events() if not event.is_async and _on_host(event.device_type)}
    spans = []
    for event in profile.profiler.kineto_results.events():
        start, end = event.start_ns() / 1e3, (event.start_ns() + event.duration_ns()) / 1e3
        if _on_host(event.device_type()):
            if event.name() == DATA_WAIT:
                spans.append(Span(DATA_WAIT, "data wait", start, end))
        elif not event.is_user_annotation():
            operation = operations.get(event.linked_correlation_id())
            spans.append(Span(*_name_and_part(event.name(), operation), start, end))
    return spans


def _on_host(device_type: Any) -> bool:
    return str(device_type).rpartition(".")[2] == "CPU"


def _name_and_part(kernel: str, operation: Any) -> tuple[str, str]:
    if kernel.lower().startswith("nccl"):
        return kernel, "communication"
    if operation is None:
        return kernel, "compute"
    return operation.name, part_of(operation) or "compute"


def exclusive_times(spans: Iterable[Span]) -> dict[str, float]:
    """Microseconds of each part in which no part before it in ``PRIORITY`` ran."""
    ends = sorted(
        ((at, change, span.part) for span in spans for at, change in ((span.start, 1), (span.end, -1))),
        key=lambda row: row[0],
    )
    times, running = dict.fromkeys(PRIORITY, 0.0), dict.fromkeys(PRIORITY, 0)
    for (at, change, part), following in pairwise(ends):
        running[part] += change
        active = next((name for name in PRIORITY if running[name]), None)
        if active is not None:
            times[active] += following[0] - at
    return times


def window(profile: Any) -> float:
    """Microseconds from the first to the last thing recorded, on host and device."""
    events = profile.profiler.kineto_results.events()
    return float(max(e.start_ns() + e.duration_ns() for e in events) - min(e.start_ns() for e in events)) / 1e3


def operation_times(spans: Sequence[Span]) -> dict[str, float]:
    """Microseconds on the device by the operation that launched them; what ran side by side counts for each."""
    times: dict[str, float] = {}
    for span in spans:
        times[span.name] = times.get(span.name, 0.0) + span.end - span.start
    return times
