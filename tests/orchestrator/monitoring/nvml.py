"""A stand-in for NVML's Python module (pynvml): devices and the errors that they answer with."""

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml


@dataclass
class Device:
    """One GPU. fails: NVML's error code for every question about it."""

    uuid: str = "GPU-a"
    name: str = "NVIDIA H800"
    pci: str = "00000000:1B:00.0"
    uncorrected: int = 0
    remapped: tuple[int, int, int, int] = (0, 0, 0, 0)
    reasons: int = 0
    mig: int = 0
    hidden: int | None = None
    fails: int | None = None
    unsupported: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)


class Nvml(ModuleType):
    """Put it into ``sys.modules["pynvml"]``. starts: whether there is a driver."""

    def __init__(self, *devices: Device, starts: bool = True) -> None:
        super().__init__("pynvml")
        self.devices, self.starts, self.open = devices, starts, 0
        for name in dir(pynvml):
            if name.startswith(("NVML", "nvmlClocksEventReason")):
                setattr(self, name, getattr(pynvml, name))

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.starts:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13010

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        if self.devices[index].hidden is not None:
            raise pynvml.NVMLError(self.devices[index].hidden)
        return self.devices[index]

    def nvmlDeviceGetName(self, device: Device) -> bytes:  # noqa: N802
        return device.name.encode()

    def nvmlDeviceGetUUID(self, device: Device) -> str:  # noqa: N802
        return device.uuid

    def nvmlDeviceGetPciInfo(self, device: Device) -> Any:  # noqa: N802
        return SimpleNamespace(busId=device.pci.encode())

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetTotalEccErrors": lambda device, kind, counter: device.uncorrected,
            "nvmlDeviceGetRemappedRows": lambda device: device.remapped,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda device: device.reasons,
            "nvmlDeviceGetMigMode": lambda device: (device.mig, device.mig),
            "nvmlDeviceGetClockInfo": lambda device, kind: 1755,
            "nvmlDeviceGetMaxClockInfo": lambda device, kind: 1980,
        }
        if name not in answers:
            raise AttributeError(name)

        def ask(device: Device, *arguments: Any) -> Any:
            if device.fails is not None:
                raise pynvml.NVMLError(device.fails)
            if name in device.unsupported:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return answers[name](device, *arguments)

        return ask
