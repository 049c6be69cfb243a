"""MIG slices are no GPUs for several ranks."""

import pytest
import torch

from orchestrator.monitoring.whole_gpus import Gpus, count_devices, is_slice

WHOLE, SLICE = "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"


def test_a_slice_is_known_by_its_name() -> None:
    assert is_slice(SLICE) and not is_slice(WHOLE)


@pytest.mark.parametrize(
    ("gpus", "ranks", "room"),
    [(Gpus(8, 0), 8, 8), (Gpus(8, 0), 4, 4), (Gpus(7, 2), 8, 7), (Gpus(0, 7), 7, 0), (Gpus(0, 7), 1, 1),
     (Gpus(0, 0), 1, 0)],
)  # fmt: skip
def test_several_ranks_need_whole_gpus(gpus: Gpus, ranks: int, room: int) -> None:
    assert gpus.for_ranks(ranks) == room


def test_devices_are_counted_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [WHOLE, SLICE, SLICE]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: names[number])
    assert count_devices() == Gpus(1, 2) and str(count_devices()) == "1 GPUs and 2 MIG slices"
