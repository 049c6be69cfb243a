"""Trying a device: a product of small integers, exact in any precision.

``python -m orchestrator.monitoring.device_trial`` tries every GPU that it may use, in a process of its own, and prints
a line of JSON: what is wrong, by number.
"""

import json
import sys

import torch

from orchestrator.run.failures import is_out_of_memory

SIDE = 64
BUSY = "busy or unavailable"
"""What CUDA says of a device that only one process may use and another one, perhaps a rank, still does."""


def try_device(device: torch.device) -> None:
    """Use a device.

    Raises:
        RuntimeError: it is missing, has no memory, or computes wrongly.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no GPU")
        torch.cuda.set_device(device)
    numbers = torch.arange(SIDE * SIDE, device=device).reshape(SIDE, SIDE) % 3
    product = numbers.float() @ numbers.float()
    expected = numbers.cpu() @ numbers.cpu()
    if not torch.equal(product.cpu().long(), expected):
        raise RuntimeError("a product of matrices comes out wrong")


def try_all(devices: int) -> dict[int, str]:
    """What is wrong with the GPUs of this process, by number; one that is full or taken may be sound."""
    problems: dict[int, str] = {}
    for number in range(devices):
        try:
            try_device(torch.device("cuda", number))
        except RuntimeError as error:
            if not is_out_of_memory(error) and BUSY not in str(error):
                problems[number] = " ".join(str(error).split())[:300]
    return problems


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_all(torch.cuda.device_count())) + "\n")
