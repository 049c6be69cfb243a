"""Which part of a step an operation that torch.profiler recorded on the host belongs to, and the time it took there."""

from collections.abc import Sequence
from typing import Any

DATA_WAIT = "wavetrain: data wait"
OPTIMIZER = "wavetrain: optimizer"


def host_times(events: Sequence[Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds of each part and of each operation, on a CPU."""
    parts: dict[str, float] = {}
    operations: dict[str, float] = {}
    for event in events:
        part, own = part_of(event), own_time(event)
        if part is not None and own:
            parts[part] = parts.get(part, 0.0) + own
            operations[event.name] = operations.get(event.name, 0.0) + own
    return parts, operations


def part_of(event: Any) -> str | None:
    """Which part an event's own time belongs to; None for ranges that only group others."""
    name = event.name.lower()
    if event.name == DATA_WAIT:
        return "data wait"
    if name.startswith(("gloo:", "nccl:", "c10d::")):
        return "communication"
    if event.is_user_annotation:
        return None
    above = _names_above(event)
    if OPTIMIZER in above:
        return "optimizer"
    return "attention" if any("attention" in other.lower() for other in (name, *above)) else "compute"


def own_time(event: Any) -> float:
    """Microseconds an event itself took on the host.

    A collective runs beside the thread that starts it: its whole length counts, and the call that starts it does not.
    """
    if event.name == DATA_WAIT or event.is_async:
        return float(event.cpu_time_total)
    return 0.0 if event.name.startswith("c10d::") else float(event.self_cpu_time_total)


def _names_above(event: Any) -> list[str]:
    names = []
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    return names
