"""How many ranks the GPUs of this machine can hold: a slice of one (MIG) is none for several ranks."""

from dataclasses import dataclass

import torch


def is_slice(name: str) -> bool:
    """Whether a device's name is that of a MIG slice, e.g. ``NVIDIA H100 80GB HBM3 MIG 1g.10gb``."""
    return "MIG" in name.split()


@dataclass(frozen=True, slots=True)
class Gpus:
    """What torch may use here."""

    whole: int
    slices: int

    def for_ranks(self, ranks: int) -> int:
        """Ranks of so many that find a device: NCCL does not connect slices, so that only one alone trains on one."""
        return 1 if ranks == 1 and self.slices else min(self.whole, ranks)

    def __str__(self) -> str:
        return f"{self.whole} GPUs" + (f" and {self.slices} MIG slices" if self.slices else "")


def count_devices() -> Gpus:
    """The devices of this process; none without a driver."""
    if not torch.cuda.is_available():
        return Gpus(0, 0)
    slices = [is_slice(torch.cuda.get_device_name(number)) for number in range(torch.cuda.device_count())]
    return Gpus(slices.count(False), slices.count(True))
