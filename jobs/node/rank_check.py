"""What every rank does before training, in a process of its own: try its device, then exchange data with the others.

``python -m jobs.node.rank_check RESULT``; torch's MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK and WORLD_SIZE in the
environment, the node's name and device in WAVETRAIN_HOST and WAVETRAIN_DEVICE, the seconds that all of it may take in
WAVETRAIN_LIMIT_S, the profile's ``nic_binding`` in WAVETRAIN_NIC_BINDING, and in WAVETRAIN_SCAN the backend of the
selective scan that must run, if any. Rank 0 writes RESULT.
"""

import os
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from channels.errors import UserError
from channels.files import write_json
from jobs.node.bandwidth import measure
from jobs.node.rank_result import BAD_DEVICE
from orchestrator.monitoring.device_trial import try_device
from orchestrator.monitoring.gpu_state import NvmlError, read_gpus
from orchestrator.monitoring.topology import own_card, place_of, use_card


def main(result: str) -> int:
    """The exit code."""
    torch.set_num_threads(1)
    cuda = os.environ["WAVETRAIN_DEVICE"] == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    try:
        try_device(device)
        if wanted := os.environ["WAVETRAIN_SCAN"]:
            try_scan(device, wanted)
    except (RuntimeError, UserError) as error:
        sys.stderr.write(f"{device} does not work: {' '.join(str(error).split())[:500]}\n")
        return BAD_DEVICE
    limit = timedelta(seconds=float(os.environ["WAVETRAIN_LIMIT_S"]))
    nic = choose_nic(device, os.environ["WAVETRAIN_NIC_BINDING"]) if cuda else None
    dist.init_process_group("nccl" if cuda else "gloo", timeout=limit)
    found = measure(device, os.environ["WAVETRAIN_HOST"], nic)
    if dist.get_rank() == 0:
        write_json(Path(result), asdict(found))
    dist.barrier()
    dist.destroy_process_group()
    return 0


def try_scan(device: torch.device, wanted: Any) -> None:
    """Run a selective scan by a backend's name.

    Raises:
        UserError: the backend is not installed or does not load.
        RuntimeError: it does not run on the device.
    """
    # They import torch's compiler, which takes longer than all else that a rank does here.
    from models.scan.backends import choose_backend
    from models.scan.operations import selective_scan

    backend = choose_backend(device.type, wanted)
    series, gates = torch.ones(1, 16, 1, 8, device=device), torch.ones(1, 16, 1, 4, device=device)
    decay, skip = -torch.ones(1, 8, 4, device=device), torch.ones(1, 8, device=device)
    scanned = selective_scan(series, series, decay, gates, gates, skip, backend=backend)
    if not bool(torch.isfinite(scanned).all()):
        raise RuntimeError(f"the selective scan of {wanted} gives what is not finite")


def choose_nic(device: torch.device, binding: str) -> str | None:
    """Bind this process to a network card where the profile says so; the nearest ones, as far as the machine says.

    binding: ``nic_binding`` of the profile.
    """
    try:
        gpus = read_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except NvmlError:
        return None
    own = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
    pci = next((gpu.pci for gpu in gpus if gpu.uuid.removeprefix("GPU-") == own), None)
    if pci is None:
        return None
    card = own_card(pci) if binding == "nearest" else None
    use_card(card, os.environ)
    return card or " ".join(place_of(pci).nics) or None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
