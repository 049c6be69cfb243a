"""What every rank does around its training, and what the controller reads of it after a failure."""

import errno
import io
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from channels.errors import UserError
from channels.files import write_json
from orchestrator.control.ray_train import rank as rank_module
from orchestrator.control.ray_train.device_check import Before, bad_nodes, read_before
from orchestrator.control.ray_train.rank import as_sent, describe_rank, kept_errors, readable_gpus
from orchestrator.monitoring.gpu_state import GpuState, NvmlError
from orchestrator.monitoring.topology import Place
from orchestrator.run.failures import RankError
from orchestrator.run.worker_config import WorkerConfig
from tests.ranks import RankPools

H800 = GpuState(1, "NVIDIA H800", "GPU-b", "0000:9b:00.0", uncorrected=4)


def agreed(folder: str) -> int:
    from orchestrator.control.ray_train.rank import agree_on_attempt

    return agree_on_attempt(Path(folder) / "attempts")


def test_all_ranks_agree_on_a_number_and_rank_zero_makes_the_folder(ranks: RankPools, tmp_path: Path) -> None:
    assert ranks(2, agreed, str(tmp_path)) == [1, 1]
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["1"]


def test_an_error_keeps_its_time_and_place_and_its_traceback_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAVETRAIN_HOST", "n5")
    cause = RuntimeError("CUDA error: uncorrectable ECC error encountered")
    with pytest.raises(RankError, match="uncorrectable ECC") as raised, kept_errors():
        raise cause
    assert raised.value.cause is cause and raised.value.host == "n5" and raised.value.time > 1.7e9
    assert "test_rank.py" in capsys.readouterr().err


def test_an_error_goes_on_where_the_disk_of_its_log_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    with pytest.raises(RankError) as raised, kept_errors():
        raise UserError("the disk is full", where="events.jsonl", mend="free some space")
    assert isinstance(raised.value.cause, UserError)


class TwoPartsError(Exception):
    """As many users write them: what is pickled has one argument, and its class wants two."""

    def __init__(self, layer: str, size: int) -> None:
        super().__init__(f"{layer} has {size}")


def test_an_error_that_cannot_be_carried_arrives_as_its_text() -> None:
    with pytest.raises(RankError) as raised, kept_errors():
        raise TwoPartsError("head", 3)
    again = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(again, RankError) and str(again.cause) == "TwoPartsError: head has 3"
    plain = ValueError("as it is")
    assert as_sent(plain) is plain


def test_on_a_cpu_nothing_is_bound() -> None:
    before = os.sched_getaffinity(0)
    record = describe_rank(WorkerConfig(Path("/runs/a"), "cpu", binding="numa"))
    assert record.device == "cpu" and record.uuid is None and os.sched_getaffinity(0) == before


@pytest.fixture
def a_rank_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two GPUs, which has CPUs and a network card beside it."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="b"))
    monkeypatch.setattr(
        rank_module, "read_gpus", lambda: [replace(H800, index=0, uuid="GPU-a", remap_pending=True), H800]
    )
    monkeypatch.setattr(rank_module, "place_of", lambda pci: Place(1, frozenset({4, 5, 6}), ("mlx5_1",)))
    monkeypatch.setattr(rank_module, "own_card", lambda pci: "mlx5_1:1")
    # What the rank sets is taken back after the test.
    monkeypatch.setenv("NCCL_IB_HCA", "")
    monkeypatch.delenv("NCCL_IB_HCA")


@pytest.mark.parametrize(("binding", "node", "bound"), [("numa", "0", 2), ("numa", "3", 3), ("none", "0", None)])
def test_a_rank_is_bound_beside_its_gpu_where_the_profile_says_so(
    a_rank_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, binding: Any, node: str, bound: int | None
) -> None:
    monkeypatch.setattr(rank_module.os, "sched_getaffinity", lambda _: {4, 5, 6, 7})
    monkeypatch.setenv("WAVETRAIN_NODE", node)
    calls: list[frozenset[int]] = []
    monkeypatch.setattr(rank_module, "bind_process", calls.append)
    record = describe_rank(WorkerConfig(Path("/runs/a"), "cuda", binding=binding))
    assert [len(cpus) for cpus in calls] == ([] if bound is None else [bound])
    assert (record.uuid, record.pci, record.numa, record.nics, record.uncorrected) == (
        "GPU-b", "0000:9b:00.0", 1, ("mlx5_1",), 4,
    )  # fmt: skip
    assert record.problems == ("GPU 0: a row of its memory waits to be remapped: the GPU must be reset",)
    assert record.cpus == {None: "4-7", 2: "5-6", 3: "4-6"}[bound]
    assert record.nccl_cards is None and "NCCL_IB_HCA" not in os.environ


@pytest.mark.parametrize(
    ("binding", "given", "used"),
    [("none", None, None), ("nearest", None, "=mlx5_1:1"), ("nearest", "mlx5", "mlx5"), ("none", "mlx5", "mlx5")],
)
def test_a_rank_is_bound_to_its_card_where_the_profile_says_so_and_the_user_has_named_none(
    a_rank_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, binding: Any, given: str | None, used: str | None
) -> None:
    if given is not None:
        monkeypatch.setenv("NCCL_IB_HCA", given)
    record = describe_rank(WorkerConfig(Path("/runs/a"), "cuda", nic_binding=binding))
    assert record.nccl_cards == used and os.environ.get("NCCL_IB_HCA") == used


def test_without_nvml_a_rank_trains_all_the_same_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent() -> list[GpuState]:
        raise NvmlError("NVML does not answer")

    monkeypatch.setattr(rank_module, "read_gpus", silent)
    assert readable_gpus() == [] and "its GPU is not watched" in capsys.readouterr().out


def test_the_counts_at_the_start_are_those_of_the_newest_attempt(tmp_path: Path) -> None:
    assert read_before(tmp_path) == Before({}, frozenset())
    for attempt, rank, uuid, count in (
        (1, 0, "GPU-a", 1),
        (2, 0, "GPU-a", 5),
        (2, 1, "GPU-b", None),
        (2, 2, None, None),
    ):
        folder = tmp_path / str(attempt)
        folder.mkdir(exist_ok=True)
        record = {"host": f"n{rank}", "uuid": uuid, "uncorrected": count, "problems": ["GPU 3: old"] if rank else []}
        write_json(folder / f"rank-{rank}.json", record)
    old = frozenset({"GPU 3: old"})
    assert read_before(tmp_path) == Before({"GPU-a": 5}, frozenset({"n0", "n1"}), {"n1": old, "n2": old})


def test_a_node_that_could_not_answer_is_not_blamed() -> None:
    assert bad_nodes([("n1", None), None, ("n2", "GPU 4: must be reset")]) == {"n2": "GPU 4: must be reset"}


def test_where_all_nodes_say_the_same_none_is_blamed() -> None:
    assert bad_nodes([("n1", "no driver"), ("n2", "no driver")]) == {}
    assert bad_nodes([("n1", "no driver")]) == {"n1": "no driver"}
