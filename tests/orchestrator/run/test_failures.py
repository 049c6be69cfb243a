"""Signs of exhausted memory, one owner for training, probe and the decision after a failure."""

import pytest
import torch

from orchestrator.run.failures import MicroBatchTooLargeError, in_one_line, is_out_of_memory


class OutOfMemoryError(Exception):
    """As Ray's, for a worker that its memory monitor ended."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("task was killed due to the node running low on memory"),
        MicroBatchTooLargeError("too large", 4, 0),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("unable to mmap 64 bytes from file: Cannot allocate memory (12)"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_exhausted_memory_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Connection closed by peer [127.0.0.1]:3421"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x3)"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
    ],
    ids=str,
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)


def test_what_ray_hands_over_is_one_plain_line() -> None:
    text = "\x1b[36mray::_score()\x1b[39m (pid=7, ip=10.0.0.1)\n  File x, line 3\nValueError: no such set\n"
    error = RuntimeError(text)
    assert in_one_line(error) == "ValueError: no such set"
    error.cause = OSError("System error: gone\ntraceback: ...")
    assert in_one_line(error) == "System error: gone"
    assert in_one_line(TimeoutError()) == "TimeoutError"
