"""A profile of a few steps of a run: torch.profiler's trace, and one page that says where the time went.

A step's time falls into attention, optimizer, communication (waiting for other ranks included), waiting for data, all
other arithmetic, and idle: the rest, when nothing was recorded (on a CPU: Python between operations).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from channels.files import write_atomically, write_json
from orchestrator.spec.job import ProfileSection

DATA_WAIT = "wavetrain: data wait"
OPTIMIZER = "wavetrain: optimizer"
PARTS = ("compute", "attention", "optimizer", "communication", "data wait", "idle")
LISTED_OPERATIONS = 12
SUMMARY = "summary.json"


def waiting_for_data() -> AbstractContextManager[Any]:
    """Marks the time in which a rank waits for its next batch."""
    return record_function(DATA_WAIT)


def optimizing() -> AbstractContextManager[Any]:
    """Marks the optimizer's step."""
    return record_function(OPTIMIZER)


class StepProfile:
    """Profiles the steps that the job names, once a run, on rank 0; without a section it does nothing."""

    def __init__(self, section: ProfileSection | None, folder: Path, rank: int, device: torch.device) -> None:
        self._section = section if rank == 0 and not (folder / SUMMARY).exists() else None
        self._folder, self._device = folder, device
        self._profile: profile | None = None
        self._first = 0

    def before(self, step: int) -> None:
        """Call it before each step of the run, counted from 0."""
        if self._section is None:
            return
        if self._profile is not None and step >= self._first + self._section.steps:
            self._end(step)
        elif self._profile is None and step >= self._section.first:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device.type == "cuda")
            self._profile, self._first = profile(activities=activities), step
            self._profile.start()

    def close(self, step: int) -> None:
        """No step follows: write what there is."""
        if self._profile is not None and step > self._first:
            self._end(step)

    def _end(self, step: int) -> None:
        assert self._profile is not None
        ended, self._profile, self._section = self._profile, None, None
        ended.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / ".trace.json.gz"
        ended.export_chrome_trace(str(temporary))
        temporary.replace(self._folder / "trace.json.gz")
        events = list(ended.events())  # type: ignore[no-untyped-call]
        summary = summarise(events, self._first, step - self._first, self._device.type == "cuda")
        write_json(self._folder / SUMMARY, summary)
        write_atomically(self._folder / "summary.md", page(summary))


def summarise(events: Sequence[Any], first: int, steps: int, on_gpu: bool) -> dict[str, Any]:
    """Milliseconds a step and shares of every part, and of the costliest operations, from torch.profiler's events."""
    window = max(event.time_range.end for event in events) - min(event.time_range.start for event in events)
    spent = dict.fromkeys(PARTS, 0.0)
    operations: dict[str, float] = {}
    for event in events:
        part, own = part_of(event), own_time(event, on_gpu)
        if part is not None and own:
            spent[part] += own
            operations[event.name] = operations.get(event.name, 0.0) + own
    spent["idle"] = max(window - sum(spent.values()), 0.0)

    def line(microseconds: float) -> dict[str, float]:
        return {"ms": microseconds / 1e3 / steps, "share": microseconds / window}

    costliest = sorted(operations.items(), key=lambda item: -item[1])[:LISTED_OPERATIONS]
    return {
        "first": first,
        "steps": steps,
        "step_ms": window / 1e3 / steps,
        "parts": {part: line(time) for part, time in spent.items()},
        "operations": [{"name": name, **line(time)} for name, time in costliest],
    }


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


def own_time(event: Any, on_gpu: bool) -> float:
    """Microseconds an event itself took: on the device that computes, or on the host for what happens there.

    A collective runs beside the thread that starts it: its whole length counts, and the call that starts it does not.
    """
    if event.name == DATA_WAIT:
        return float(event.cpu_time_total)
    if event.name.startswith("c10d::"):
        return float(event.self_device_time_total) if on_gpu else 0.0
    if event.is_async:
        return 0.0 if on_gpu else float(event.cpu_time_total)
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def _names_above(event: Any) -> list[str]:
    names = []
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    return names


def page(summary: dict[str, Any]) -> str:
    """The summary in Markdown."""
    last = summary["first"] + summary["steps"] - 1
    lines = [f"# Steps {summary['first']} to {last} of rank 0: {summary['step_ms']:.1f} ms a step", ""]
    lines += ["| part | ms a step | share |", "|---|---:|---:|"]
    lines += [f"| {part} | {row['ms']:.1f} | {100 * row['share']:.1f} % |" for part, row in summary["parts"].items()]
    lines += ["", "| costliest operations | ms a step | share |", "|---|---:|---:|"]
    lines += [f"| `{row['name']}` | {row['ms']:.1f} | {100 * row['share']:.1f} % |" for row in summary["operations"]]
    return "\n".join(lines) + "\n"
