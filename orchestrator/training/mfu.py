"""Speed of a step and its share of the device's peak, by the model's own arithmetic (model FLOPs utilisation, MFU).

Valid: operations the samples need. Computed: operations of the batch as it is laid out, padding and fillers included.
"""

from dataclasses import dataclass

import torch

from orchestrator.spec.train import Precision, TrainSection

DENSE_PEAKS: tuple[tuple[frozenset[str], float, float], ...] = (
    (frozenset({"H800", "PCIE"}), 756e12, 51e12),
    (frozenset({"H100", "PCIE"}), 756e12, 51e12),
    (frozenset({"H100", "NVL"}), 835e12, 60e12),
    (frozenset({"H200", "NVL"}), 836e12, 60e12),
    (frozenset({"H800"}), 989e12, 67e12),
    (frozenset({"H100"}), 989e12, 67e12),
    (frozenset({"H200"}), 989e12, 67e12),
    (frozenset({"GH200"}), 990e12, 67e12),
    (frozenset({"H20"}), 148e12, 44e12),
    (frozenset({"A100"}), 312e12, 19.5e12),
    (frozenset({"A800"}), 312e12, 19.5e12),
    (frozenset({"B200"}), 2250e12, 75e12),
    (frozenset({"GB200"}), 2500e12, 80e12),
    (frozenset({"L40S"}), 362e12, 91.6e12),
)
"""Words of a device's name, and operations/s in bf16 and in fp32; the first row whose words all occur counts.

Dense figures, half of what is stated with sparsity, of NVIDIA's data sheets: H100, H200, GH200 Grace Hopper, A100,
L40S, and Blackwell (HGX B200, GB200 NVL72). H800 and A800 compute as H100 and A100, only their links are slower. The
H20 has no public data sheet: its figures are those of the press.
"""


@dataclass(frozen=True, slots=True)
class StepWork:
    """What all ranks did in one optimizer step; operations are of forward and backward."""

    valid_tokens: int
    computed_tokens: int
    valid_flops: float
    computed_flops: float

    def speeds(self, seconds: float, peak: float | None) -> dict[str, float]:
        """Metrics of a step that took so long. peak: operations/s of all devices together, None where unknown."""
        utilisation = {} if peak is None else {"perf/mfu": self.valid_flops / seconds / peak}
        return {
            "perf/tokens_per_s": self.valid_tokens / seconds,
            "perf/computed_tokens_per_s": self.computed_tokens / seconds,
            "perf/flops_per_s": self.valid_flops / seconds,
            "perf/computed_flops_per_s": self.computed_flops / seconds,
            **utilisation,
        }


def device_peak(device_type: str, train: TrainSection, stated: float | None) -> float | None:
    """Operations/s of one device: as stated in the cluster's profile, else by its name.

    None for unknown devices, and for float32 in TF32, which is neither of the rates that are known.
    """
    if stated is not None or device_type != "cuda":
        return stated
    if train.precision == "fp32" and train.tf32:
        return None
    return known_peak(torch.cuda.get_device_name(), train.precision)


def products_of_float32(device_type: str, train: TrainSection) -> str | None:
    """One line for the log on how a GPU multiplies float32; None where nothing is to be said."""
    if device_type != "cuda" or train.precision != "fp32":
        return None
    if train.tf32:
        return "float32 products in TF32: 10 bits of mantissa (train.tf32)"
    return "float32 products in full; train.tf32: true makes them several times faster, at 10 bits of mantissa"


def known_peak(name: str, precision: Precision) -> float | None:
    """Operations/s of a whole device by its name, e.g. ``NVIDIA H100 80GB HBM3``."""
    words = set(name.upper().replace("-", " ").split())
    if "MIG" in words:
        # A slice has a part of the multiprocessors that its name gives only roughly.
        return None
    for required, bf16, fp32 in DENSE_PEAKS:
        if required <= words:
            return fp32 if precision == "fp32" else bf16
    return None
