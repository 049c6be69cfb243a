"""The flight recorder of a rank that hangs, on gloo: torch without NCCL keeps it too."""

import json
from pathlib import Path

import pytest

from orchestrator.monitoring import flight_recorder
from orchestrator.monitoring.flight_recorder import write_flight_recorder
from tests.ranks import RankPools


def reduced_and_recorded(path: str) -> bool:
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.ones(7))
    return write_flight_recorder(Path(f"{path}-{dist.get_rank()}"))


def test_every_rank_writes_its_collective_operations(ranks: RankPools, tmp_path: Path) -> None:
    if not hasattr(__import__("torch")._C._distributed_c10d, flight_recorder.DUMPS[1]):
        pytest.skip("this torch keeps no operations of gloo")
    assert ranks(2, reduced_and_recorded, str(tmp_path / "rank")) == [True, True]
    for rank in range(2):
        entries = json.loads((tmp_path / f"rank-{rank}").read_text())["entries"]
        assert any(entry["profiling_name"] == "gloo:all_reduce" and entry["input_sizes"] == [[7]] for entry in entries)


def test_a_torch_without_a_recorder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "DUMPS", ("_no_such_dump",))
    assert not write_flight_recorder(tmp_path / "file") and not (tmp_path / "file").exists()
