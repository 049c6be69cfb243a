"""What NVIDIA's management library (NVML, package nvidia-ml-py) says of the GPUs of this machine.

NVML needs no CUDA context, so it answers for a device that is full, hung or broken too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

SLOWDOWNS = {
    "nvmlClocksEventReasonHwThermalSlowdown": "too hot (hardware)",
    "nvmlClocksEventReasonSwThermalSlowdown": "too hot",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake of the machine",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
}
"""NVML's reasons for low clocks that are faults of a machine; to be idle or at the power limit is none."""


class NvmlError(RuntimeError):
    """NVML does not answer on this machine."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU. Numbers are None where the device does not count them.

    pci: as sysfs writes it, ``0000:1b:00.0``. uncorrected: memory errors that ECC could not correct since the driver
    was loaded. remap_pending, remap_failed: of rows of the memory that were to be replaced by spare ones.
    """

    index: int
    name: str
    uuid: str
    pci: str
    uncorrected: int | None = None
    remap_pending: bool = False
    remap_failed: bool = False
    mig: bool = False
    sm_mhz: int | None = None
    most_sm_mhz: int | None = None
    slowed_by: tuple[str, ...] = ()
    lost: str | None = None
    """Why NVML cannot reach it, e.g. that it has fallen off the bus."""


def read_gpus(visible: str | None = None) -> list[GpuState]:
    """The GPUs of this machine, also those that cannot be reached any more.

    visible: CUDA_VISIBLE_DEVICES, to leave out those that it does not name; None or empty: all. The n-th is CUDA's
    device n; what cannot be reached and has no name there comes last.

    Raises:
        NvmlError: no driver, or it does not answer.
    """
    with _nvml() as nvml:
        try:
            found = [_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            raise NvmlError(f"NVML does not answer ({error})") from None
    gpus = [gpu for gpu in found if gpu is not None]
    wanted = [token.strip() for token in (visible or "").split(",") if token.strip()]
    if not wanted:
        return gpus
    # CUDA counts only those that this job may use.
    named = [gpu for token in wanted for number, gpu in enumerate(gpus) if _is_named(gpu, number, token)]
    return named + [gpu for gpu in gpus if gpu.lost and gpu not in named]


def driver() -> str:
    """Version of the driver, and the newest CUDA that it serves.

    Raises:
        NvmlError: no driver.
    """
    with _nvml() as nvml:
        try:
            number, cuda = _text(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlSystemGetCudaDriverVersion()
        except nvml.NVMLError as error:
            raise NvmlError(f"NVML does not answer ({error})") from None
    return f"driver {number} for CUDA up to {cuda // 1000}.{cuda % 1000 // 10}"


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        import pynvml
    except ImportError as error:
        raise NvmlError(f"the package nvidia-ml-py is not installed ({error})") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlError(f"NVML does not answer ({error})") from None
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _is_named(gpu: GpuState, number: int, token: str) -> bool:
    return token == str(number) or (token.startswith("GPU-") and gpu.uuid.startswith(token))


def _read(nvml: Any, index: int) -> GpuState | None:
    """None for a device that another job has."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name, uuid = _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle))
        pci = sysfs_address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_NO_PERMISSION:
            return None
        return GpuState(index, "unknown", "unknown", "unknown", lost=str(error))
    try:
        return _counters(nvml, handle, GpuState(index, name, uuid, pci))
    except nvml.NVMLError as error:
        return GpuState(index, name, uuid, pci, lost=str(error))


def _counters(nvml: Any, handle: Any, gpu: GpuState) -> GpuState:
    def ask(question: Callable[..., Any], *arguments: Any, otherwise: Any = None) -> Any:
        """An answer; ``otherwise`` where this kind of device has none."""
        try:
            return question(handle, *arguments)
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION):
                return otherwise
            raise

    _, _, pending, failed = ask(nvml.nvmlDeviceGetRemappedRows, otherwise=(0, 0, 0, 0))
    reasons = ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, otherwise=0)
    return replace(
        gpu,
        uncorrected=ask(
            nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        remap_pending=bool(pending),
        remap_failed=bool(failed),
        mig=bool(ask(nvml.nvmlDeviceGetMigMode, otherwise=(0, 0))[0]),
        sm_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        most_sm_mhz=ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        slowed_by=tuple(text for bit, text in SLOWDOWNS.items() if reasons & getattr(nvml, bit)),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def sysfs_address(bus_id: str) -> str:
    """``00000000:1B:00.0`` of NVML as ``0000:1b:00.0``."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
