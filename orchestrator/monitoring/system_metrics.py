"""How busy a machine is: CPU, memory, network and GPUs, under the names that MLflow uses."""

import time
from dataclasses import dataclass, field
from importlib.util import find_spec

import psutil
import torch

MEGABYTE = 1e6
LOOPBACK = "lo"


def _network() -> tuple[float, float]:
    """Megabytes received and sent so far over all interfaces to other machines."""
    found = [counters for name, counters in psutil.net_io_counters(pernic=True).items() if name != LOOPBACK]
    return sum(one.bytes_recv for one in found) / MEGABYTE, sum(one.bytes_sent for one in found) / MEGABYTE


@dataclass
class SystemSampler:
    """Samples the machine it runs on; rates are means since the sample before. gpus: those this process may use."""

    gpus: int = 0
    _time: float = field(default_factory=time.monotonic)
    _network: tuple[float, float] = field(default_factory=_network)

    def __post_init__(self) -> None:
        """The first call of psutil only starts the clock."""
        psutil.cpu_percent()

    def sample(self) -> dict[str, float]:
        """Percent, megabytes and megabytes a second."""
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            **self._network_rates(),
            **(gpu_metrics(self.gpus) if self.gpus else {}),
        }

    def _network_rates(self) -> dict[str, float]:
        now, counters = time.monotonic(), _network()
        seconds = max(now - self._time, 1e-9)
        received, sent = ((new - old) / seconds for new, old in zip(counters, self._network, strict=True))
        self._time, self._network = now, counters
        return {"network_receive_megabytes_per_s": received, "network_transmit_megabytes_per_s": sent}


def count_gpus() -> int:
    """GPUs that can be sampled: those torch sees; none without NVIDIA's management library (nvidia-ml-py)."""
    return torch.cuda.device_count() if find_spec("pynvml") and torch.cuda.is_available() else 0


def gpu_metrics(count: int) -> dict[str, float]:
    """Utilisation, memory and power of the first ``count`` devices that torch sees."""
    found: dict[str, float] = {}
    for gpu in range(count):
        used = torch.cuda.device_memory_used(gpu)
        found[f"gpu_{gpu}_utilization_percentage"] = float(torch.cuda.utilization(gpu))
        found[f"gpu_{gpu}_memory_usage_megabytes"] = used / MEGABYTE
        found[f"gpu_{gpu}_memory_usage_percentage"] = 100 * used / torch.cuda.get_device_properties(gpu).total_memory
        found[f"gpu_{gpu}_power_usage_watts"] = torch.cuda.power_draw(gpu) / 1e3
    return found
