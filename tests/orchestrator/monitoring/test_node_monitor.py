"""System metrics of machines: sampled in a thread, gathered by rank 0, written as events."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from channels.files import write_json
from orchestrator.monitoring.node_monitor import NodeMonitor, watches
from orchestrator.monitoring.system_metrics import SystemSampler, gpu_metrics
from orchestrator.run.events import EventWriter, read_events
from orchestrator.run.progress import RunProgress
from tests.orchestrator.training.test_worker import events_of, prepare, snapshot_job, work


def machines_of_ranks(names: list[str]) -> tuple[list[str], bool]:
    """What a rank learns of all machines, each rank calling its own by the name given; whether it samples."""
    import torch.distributed as dist

    from orchestrator.training.collectives import gather

    rank = dist.get_rank()
    found = gather(names[rank])
    return found, watches(found, rank)


def test_one_rank_of_each_machine_samples(ranks: Any) -> None:
    assert ranks(2, machines_of_ranks, ["n1", "n2"]) == [(["n1", "n2"], True)] * 2
    assert ranks(2, machines_of_ranks, ["n1", "n1"]) == [(["n1", "n1"], True), (["n1", "n1"], False)]


def test_a_sample_has_what_every_machine_has() -> None:
    sampler = SystemSampler()
    sum(range(10**6))
    values = sampler.sample()
    assert set(values) == {
        "cpu_utilization_percentage",
        "system_memory_usage_megabytes",
        "system_memory_usage_percentage",
        "network_receive_megabytes_per_s",
        "network_transmit_megabytes_per_s",
    }
    assert 0 < values["cpu_utilization_percentage"] <= 100
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert min(values.values()) >= 0


def test_gpus_are_asked_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Properties:
        total_memory = 80e9

    monkeypatch.setattr(torch.cuda, "utilization", lambda gpu: 90 - gpu)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda gpu: 20e9)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda gpu: 350_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: Properties())
    found = gpu_metrics(2)
    assert found["gpu_1_utilization_percentage"] == 89.0
    assert (found["gpu_0_memory_usage_megabytes"], found["gpu_0_memory_usage_percentage"]) == (20e3, 25.0)
    assert found["gpu_0_power_usage_watts"] == 350.0


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rank_zero_gathers_the_samples_of_other_machines(tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    old = {"machine": "gone", "time": 5.0, "step": 1, "values": {"cpu_utilization_percentage": 1.0}}
    write_json(tmp_path / "system" / "gone.json", old)
    with EventWriter(tmp_path / "events.jsonl") as events:
        first = NodeMonitor(tmp_path / "system", "n1", 0.02, lambda: 7, events)
        other = NodeMonitor(tmp_path / "system", "n2", 0.02, lambda: 6, None)
        with first, other:
            wait_for(lambda: "/n2/" in (tmp_path / "events.jsonl").read_text())
    found, _ = read_events(tmp_path / "events.jsonl")
    assert {event["kind"] for event in found} == {"system"}
    steps = {key.split("/")[1]: event["step"] for event in found for key in event["metrics"]}
    assert steps == {"n1": 7, "n2": 6}
    mine = [event["time"] for event in found if event["step"] == 6]
    assert len(mine) == len(set(mine))
    progress = RunProgress()
    for event in found:
        progress.add(event)
    assert 0 <= progress.nodes["n2"].values["cpu_utilization_percentage"] <= 100


def test_a_lost_folder_ends_the_samples_not_the_training(tmp_path: Path) -> None:
    monitor = NodeMonitor(tmp_path / "system", "n2", 0.01, lambda: 0, None)
    with monitor:
        wait_for(lambda: (tmp_path / "system" / "n2.json").exists())
        (tmp_path / "system").rename(tmp_path / "elsewhere")
        wait_for(lambda: not monitor._thread.is_alive())
    assert json.loads((tmp_path / "elsewhere" / "n2.json").read_text())["machine"] == "n2"


def test_a_run_tells_its_machines_and_their_load(
    ranks: Any, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"name": "raw", "patches": [2, 4]}
    job = snapshot_job(small_store, model)
    tracking = job.tracking.model_copy(update={"system_every_s": 0.01})
    watched = prepare(tmp_path / "watched", job.model_copy(update={"tracking": tracking}))
    assert ranks(2, work, str(watched.path)) == ["finished"] * 2
    (attempt,) = events_of(watched, "attempt")
    samples = events_of(watched, "system")
    assert samples and len(attempt["machines"]) == 1
    name = f"system/{attempt['machines'][0]}/cpu_utilization_percentage"
    assert all(name in sample["metrics"] for sample in samples)

    tracking = job.tracking.model_copy(update={"system_every_s": 0})
    unwatched = prepare(tmp_path / "unwatched", job.model_copy(update={"tracking": tracking}))
    assert ranks(2, work, str(unwatched.path)) == ["finished"] * 2
    assert not events_of(unwatched, "system") and not unwatched.system.exists()


def test_a_machine_that_cannot_be_sampled_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: SystemSampler) -> dict[str, float]:
        raise RuntimeError("not supported by this driver")

    monkeypatch.setattr(SystemSampler, "sample", refuse)
    with NodeMonitor(tmp_path / "system", "n1", 0.01, lambda: 0, None):
        wait_for(lambda: "not supported by this driver" in caplog.text)
    (tmp_path / "file").write_text("")
    with NodeMonitor(tmp_path / "file", "n1", 0.01, lambda: 0, None):
        wait_for(lambda: "File exists" in caplog.text)
