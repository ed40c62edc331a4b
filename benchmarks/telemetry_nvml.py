"""Power, clocks, temperature and throttling of NVIDIA GPUs, by NVML.

Through NVIDIA's own package nvidia-ml-py: a call takes well below a millisecond within this process, where nvidia-smi would be
a process of its own, started for each sample or running beside the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from diffpose_edge.extras import install_command, is_installed

# What a GPU is asked, by quantity and what is added to its name.
ASKED: tuple[tuple[str, str, Callable[[Any, Any], float]], ...] = (
    ("power_w", "", lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    ("energy_j", "", lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000),
    ("clock_mhz", "", lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
    ("clock_mhz", " memory", lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
    ("temperature_c", "", lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
)
# NVML API reference, nvmlClocksEventReasons. Not in it: idle, clocks that the user has set, display, boost groups.
REASONS = {0x04: "power cap", 0x08: "hardware slowdown", 0x20: "heat", 0x40: "heat, in hardware", 0x80: "power brake"}


class Nvml:
    """Every GPU that NVML sees, by its number there, which is that of nvidia-smi."""

    def __init__(self, nvml: Any):
        self._nvml, self._open = nvml, True
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        self._gpus = {f"gpu{i}": handle for i, handle in enumerate(handles)}

    @property
    def names(self) -> list[str]:
        """What its GPUs are called in readings."""
        return list(self._gpus)

    def read(self) -> dict[tuple[str, str], float]:
        told: dict[tuple[str, str], float] = {}
        for name, gpu in self._gpus.items():
            # What a GPU does not have, such as a power sensor, is left out.
            for quantity, more, ask in ASKED:
                with suppress(self._nvml.NVMLError):
                    told[quantity, name + more] = float(ask(self._nvml, gpu))
            with suppress(self._nvml.NVMLError):
                # The name of before driver 535, which newer ones keep.
                reasons = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
                told |= {("throttled", f"{name}, {said}"): float(bool(reasons & bit)) for bit, said in REASONS.items()}
        return told

    def close(self) -> None:
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()


def nvml(module: Any = None) -> Nvml | str:
    """Return the GPUs, or why there are none. ``module`` takes the place of pynvml."""
    if module is None:
        if not is_installed("pynvml"):
            return f"the package nvidia-ml-py is not installed; for an NVIDIA GPU: {install_command('pynvml')}"
        import pynvml as module  # type: ignore[import-untyped,no-redef]
    try:
        module.nvmlInit()
    except module.NVMLError as err:
        return f"NVML does not start: {err}"
    try:
        found = Nvml(module)
    except module.NVMLError as err:
        module.nvmlShutdown()
        return f"NVML cannot list its GPUs: {err}"
    if found.names:
        return found
    found.close()
    return "NVML sees no GPU"
