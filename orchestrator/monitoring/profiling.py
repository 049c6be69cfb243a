"""A profile of a few steps of a run: torch.profiler's trace, and one page that says where the time went.

A step's time falls into attention, optimizer, communication (waiting for other ranks included), waiting for data, all
other arithmetic, and idle: the rest, when nothing was recorded (on a CPU: Python between operations). On a GPU the
device's time counts: what is communicated or waited for beside its arithmetic costs nothing.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from channels.files import write_atomically, write_json
from orchestrator.monitoring.device_profile import device_spans, exclusive_times, operation_times, window
from orchestrator.monitoring.profile_parts import DATA_WAIT, OPTIMIZER, host_times
from orchestrator.spec.train import ProfileSection

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
        summary = summarise(ended, self._first, step - self._first, self._device.type == "cuda")
        write_json(self._folder / SUMMARY, summary)
        write_atomically(self._folder / "summary.md", page(summary))


def summarise(profile: Any, first: int, steps: int, on_gpu: bool) -> dict[str, Any]:
    """Milliseconds a step and shares of every part, and of the costliest operations, of a finished profile."""
    if on_gpu:
        spans = device_spans(profile)
        return make_summary(exclusive_times(spans), operation_times(spans), window(profile), first, steps)
    events = list(profile.events())
    length = max(event.time_range.end for event in events) - min(event.time_range.start for event in events)
    return make_summary(*host_times(events), length, first, steps)


def make_summary(
    parts: Mapping[str, float], operations: Mapping[str, float], length: float, first: int, steps: int
) -> dict[str, Any]:
    """The summary of so many microseconds; what no part took is idle."""

    def line(microseconds: float) -> dict[str, float]:
        return {"ms": microseconds / 1e3 / steps, "share": microseconds / length}

    spent = {part: parts.get(part, 0.0) for part in PARTS}
    spent["idle"] = max(length - sum(spent.values()), 0.0)
    costliest = sorted(operations.items(), key=lambda item: -item[1])[:LISTED_OPERATIONS]
    return {
        "first": first,
        "steps": steps,
        "step_ms": length / 1e3 / steps,
        "parts": {part: line(time) for part, time in spent.items()},
        "operations": [{"name": name, **line(time)} for name, time in costliest],
    }


def page(summary: dict[str, Any]) -> str:
    """The summary in Markdown."""
    last = summary["first"] + summary["steps"] - 1
    lines = [f"# Steps {summary['first']} to {last} of rank 0: {summary['step_ms']:.1f} ms a step", ""]
    lines += ["| part | ms a step | share |", "|---|---:|---:|"]
    lines += [f"| {part} | {row['ms']:.1f} | {100 * row['share']:.1f} % |" for part, row in summary["parts"].items()]
    lines += ["", "| costliest operations | ms a step | share |", "|---|---:|---:|"]
    lines += [f"| `{row['name']}` | {row['ms']:.1f} | {100 * row['share']:.1f} % |" for row in summary["operations"]]
    return "\n".join(lines) + "\n"
