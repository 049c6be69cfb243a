"""What every rank does before training, in a process of its own: try its device, then exchange data with the others.

``python -m jobs.node.rank_check RESULT``; torch's MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK and WORLD_SIZE in the
environment, and the node's name and device in WAVETRAIN_HOST and WAVETRAIN_DEVICE. Rank 0 writes RESULT.
"""

import os
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from channels.files import write_json
from jobs.node.bandwidth import measure
from jobs.node.rank_result import BAD_DEVICE

TIMEOUT_S = 180


def main(result: str) -> int:
    """The exit code."""
    torch.set_num_threads(1)
    cuda = os.environ["WAVETRAIN_DEVICE"] == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    try:
        try_device(device)
    except RuntimeError as error:
        sys.stderr.write(f"{device} does not work: {' '.join(str(error).split())[:500]}\n")
        return BAD_DEVICE
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=TIMEOUT_S))
    found = measure(device, os.environ["WAVETRAIN_HOST"])
    if dist.get_rank() == 0:
        write_json(Path(result), asdict(found))
    dist.barrier()
    dist.destroy_process_group()
    return 0


def try_device(device: torch.device) -> None:
    """A product of small integers, exact in any precision.

    The kernels of WiMamba are not tried: one that does not load says nothing about the device, most jobs need none, and
    a job that asks for one is refused where it does not run (``choose_backend``).

    Raises:
        RuntimeError: the device is missing, has no memory or computes wrongly.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no GPU")
        torch.cuda.set_device(device)
    numbers = torch.arange(64 * 64, device=device).reshape(64, 64) % 3
    product = numbers.float() @ numbers.float()
    expected = numbers.cpu() @ numbers.cpu()
    if not torch.equal(product.cpu().long(), expected):
        raise RuntimeError("a product of matrices comes out wrong")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
