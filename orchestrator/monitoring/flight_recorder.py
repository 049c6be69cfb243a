"""torch's flight recorder: the last collective operations of a rank, which of them began and which ended.

``TORCH_FR_BUFFER_SIZE`` says how many are kept. torch itself writes them down when an operation takes longer than the
process group allows; our watchdog has less patience than that, so it asks for them.
"""

from pathlib import Path

import torch

DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""Of torch with NCCL, and of torch without."""


def write_flight_recorder(path: Path) -> bool:
    """Write this process's operations as JSON; whether this torch keeps any. It may wait for a device that hangs."""
    found = [getattr(torch._C._distributed_c10d, name, None) for name in DUMPS]
    dump = next(filter(None, found), None)
    if dump is None:
        return False
    path.write_bytes(dump())
    return True
