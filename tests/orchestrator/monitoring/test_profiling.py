"""Profiles of steps: the parts of made-up events by hand, and a real trace of a worker's steps."""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.monitoring.device_profile import Span, exclusive_times, operation_times
from orchestrator.monitoring.profile_parts import DATA_WAIT, OPTIMIZER
from orchestrator.monitoring.profiling import PARTS, StepProfile, make_summary, summarise
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job
from tests.orchestrator.training.test_worker import prepare, work


@dataclass
class Range:
    start: float
    end: float


@dataclass
class Event:
    """What the summary reads of torch's FunctionEvent."""

    name: str
    time_range: Range
    self_cpu_time_total: float = 0.0
    cpu_parent: "Event | None" = None
    is_async: bool = False
    is_user_annotation: bool = False
    cpu_time_total: float = field(init=False)

    def __post_init__(self) -> None:
        self.cpu_time_total = self.time_range.end - self.time_range.start


def test_every_microsecond_goes_to_one_part() -> None:
    attention = Event("aten::scaled_dot_product_attention", Range(100, 400), 50)
    step = Event(OPTIMIZER, Range(600, 900), 100, is_user_annotation=True)
    events = [
        Event(DATA_WAIT, Range(0, 100), 100, is_user_annotation=True),
        attention,
        Event("aten::bmm", Range(150, 400), 250, cpu_parent=attention),
        Event("aten::mm", Range(400, 500), 100),
        step,
        Event("aten::_fused_adamw_", Range(600, 700), 100, cpu_parent=step),
        Event("c10d::allreduce_", Range(700, 710), 10, cpu_parent=step),
        Event("gloo:all_reduce", Range(700, 850), is_async=True, is_user_annotation=True),
    ]
    summary = summarise(SimpleNamespace(events=lambda: events), first=3, steps=2, on_gpu=False)
    expected = dict(zip(PARTS, (100, 300, 100, 150, 100, 150), strict=True))
    assert {part: row["share"] for part, row in summary["parts"].items()} == {
        part: pytest.approx(time / 900) for part, time in expected.items()
    }
    assert summary["step_ms"] == pytest.approx(0.45)
    assert summary["operations"][0] == {"name": "aten::bmm", "ms": 0.125, "share": pytest.approx(250 / 900)}


def test_on_a_gpu_every_moment_goes_to_one_part() -> None:
    """Kernels run beside each other and beside NCCL's, whose time counts only where nothing computes."""
    spans = [
        Span(DATA_WAIT, "data wait", 0, 120),
        Span("aten::mm", "compute", 100, 300),
        Span("aten::mm", "compute", 200, 350),
        Span("attention", "attention", 250, 450),
        Span("ncclDevKernel_AllReduce", "communication", 300, 700),
        Span("aten::_fused_adamw_", "optimizer", 800, 900),
    ]
    times = exclusive_times(spans)
    assert times == {"compute": 150, "attention": 200, "optimizer": 100, "communication": 250, "data wait": 100}
    assert operation_times(spans)["aten::mm"] == 350
    summary = make_summary(times, operation_times(spans), 1000, first=0, steps=1)
    assert sum(row["share"] for row in summary["parts"].values()) == pytest.approx(1)
    assert summary["parts"]["idle"]["share"] == pytest.approx(0.2)


def test_a_worker_writes_trace_and_summary_of_the_steps_asked_for(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    job = small_job(small_store, data={"samples": 12}, train={"epochs": 1, "profile": {"from": 1, "steps": 2}})
    directory = prepare(tmp_path / "profiled", job)
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    summary = json.loads((directory.profile / "summary.json").read_text())
    assert (summary["first"], summary["steps"]) == (1, 2)
    assert sum(row["share"] for row in summary["parts"].values()) == pytest.approx(1, abs=0.02)
    for part in ("compute", "attention", "optimizer", "communication"):
        assert summary["parts"][part]["share"] > 0, part
    text = (directory.profile / "summary.md").read_text()
    assert "Steps 1 to 2" in text and all(f"| {part} |" in text for part in PARTS)
    with gzip.open(directory.profile / "trace.json.gz", "rt") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert OPTIMIZER in names and any(str(name).startswith("aten::") for name in names)
    again = StepProfile(job.train.profile, directory.profile, 0, torch.device("cpu"))
    again.before(7)
    assert again._profile is None, "a later attempt leaves the profile alone"


def test_profiling_is_no_part_of_what_a_run_computes(small_store: Path) -> None:
    plain, profiled = small_job(small_store), small_job(small_store, train={"profile": {"from": 2}})
    assert plain.fingerprint == profiled.fingerprint
    again = JobSpec.model_validate(profiled.model_dump(mode="json"))
    assert again.train.profile is not None and again.train.profile.first == 2
