"""Profiles of steps: the parts of made-up events by hand, and a real trace of a worker's steps."""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.monitoring.device_profile import Span, device_spans, exclusive_times, operation_times, window
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
    id: int = 0
    device_type: str = "DeviceType.CPU"
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


@dataclass
class Recorded:
    """What the spans of a GPU read of an event of kineto. start, end: microseconds."""

    label: str
    start: float
    end: float
    launched_by: int = 0
    device: str = "DeviceType.CUDA"
    annotation: bool = False

    def name(self) -> str:
        return self.label

    def start_ns(self) -> int:
        return int(1e3 * self.start)

    def duration_ns(self) -> int:
        return int(1e3 * (self.end - self.start))

    def device_type(self) -> str:
        return self.device

    def is_user_annotation(self) -> bool:
        return self.annotation

    def linked_correlation_id(self) -> int:
        return self.launched_by


def recorded_on_a_gpu() -> SimpleNamespace:
    """A profile in which operations launch kernels; ranges of the host are there again among what the device did."""
    host = "DeviceType.CPU"
    step = Event(OPTIMIZER, Range(500, 600), is_user_annotation=True, id=4)
    attention = Event("aten::scaled_dot_product_attention", Range(20, 40), id=2)
    operations = [
        Event("aten::mm", Range(0, 10), id=1),
        attention,
        Event("aten::_flash_attention_forward", Range(25, 40), cpu_parent=attention, id=3),
        step,
        Event("aten::_fused_adamw_", Range(510, 520), cpu_parent=step, id=5),
        # Neither of these launched the kernel that has their number.
        Event("ProfilerStep#3", Range(0, 900), id=6, is_async=True),
        Event("gemm", Range(100, 200), id=7, device_type="DeviceType.CUDA"),
    ]
    events = [
        Recorded("aten::mm", 0, 10, device=host),
        Recorded(DATA_WAIT, 0, 15, device=host, annotation=True),
        Recorded("gemm", 100, 200, launched_by=1),
        Recorded("flash_fwd_kernel", 200, 300, launched_by=3),
        Recorded("ncclDevKernel_AllReduce_Sum_f32", 300, 400, launched_by=1),
        Recorded("nccl:all_reduce", 300, 400, annotation=True),
        Recorded(OPTIMIZER, 100, 620, annotation=True),
        Recorded("multi_tensor_apply_kernel", 520, 620, launched_by=5),
        Recorded("Memcpy HtoD (Pinned -> Device)", 620, 630),
        Recorded("Memset (Device)", 630, 640, launched_by=6),
        Recorded("reduce_kernel", 640, 650, launched_by=7),
    ]
    kineto = SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: events))
    return SimpleNamespace(events=lambda: operations, profiler=kineto)


def test_a_kernel_counts_once_for_the_operation_that_launched_it() -> None:
    profile = recorded_on_a_gpu()
    assert device_spans(profile) == [
        Span(DATA_WAIT, "data wait", 0, 15),
        Span("aten::mm", "compute", 100, 200),
        Span("aten::_flash_attention_forward", "attention", 200, 300),
        Span("ncclDevKernel_AllReduce_Sum_f32", "communication", 300, 400),
        Span("aten::_fused_adamw_", "optimizer", 520, 620),
        Span("Memcpy HtoD (Pinned -> Device)", "compute", 620, 630),
        Span("Memset (Device)", "compute", 630, 640),
        Span("reduce_kernel", "compute", 640, 650),
    ]
    assert window(profile) == 650


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
