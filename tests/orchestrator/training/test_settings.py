"""What DeepSpeed and CUDA are set to; no engine is made."""

from types import SimpleNamespace

import pytest
import torch

from orchestrator.spec.train import TrainSection
from orchestrator.training.engine import MOST_REDUCED, deepspeed_config, set_up_cuda

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize(
    ("parameters", "elements"), [(1_000, 1_000), (7, 8), (MOST_REDUCED - 1, MOST_REDUCED), (700_000_000, 50_000_000)]
)
def test_buffers_of_gradients_and_weights_fit_the_model(parameters: int, elements: int) -> None:
    """DeepSpeed's own are 5e8 elements, which it takes whatever the model; it wants an even number."""
    zero = deepspeed_config(TrainSection(), parameters)["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == elements


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_reduction_overlaps_only_where_the_host_waits_anyway(stage: int) -> None:
    zero = deepspeed_config(TrainSection(zero_stage=stage), 1_000)["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"]) == (stage, stage == 3)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for the flags of torch, and keeps what the allocator is set to."""
    found = SimpleNamespace(matmul=SimpleNamespace(), cudnn=SimpleNamespace(), allocator=[])
    monkeypatch.setattr(torch.backends.cuda, "matmul", found.matmul)
    monkeypatch.setattr(torch.backends, "cudnn", found.cudnn)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", found.allocator.append)
    for variable in ALLOCATOR:
        monkeypatch.delenv(variable, raising=False)
    return found


@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_in_tf32_only_where_the_job_asks(cuda: SimpleNamespace, tf32: bool) -> None:
    set_up_cuda(tf32)
    assert cuda.matmul.allow_tf32 is cuda.cudnn.allow_tf32 is tf32


def test_memory_comes_in_segments_that_grow(cuda: SimpleNamespace) -> None:
    set_up_cuda(False)
    assert cuda.allocator == ["expandable_segments:True"]


@pytest.mark.parametrize("variable", ALLOCATOR)
def test_a_choice_of_the_users_stays(cuda: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "max_split_size_mb:512")
    set_up_cuda(False)
    assert not cuda.allocator
