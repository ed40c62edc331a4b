"""Public figures of the devices that a plan can be made for, each with its source or marked as assumed.

Peaks are dense: NVIDIA quotes INT8 of Orin, Ada and Hopper, and FP4 of Thor, with structured sparsity, which doubles them and which no
graph of this project has. Deep learning accelerators beside a Jetson's GPU are left out: no engine of ours runs on them. No figure
here was measured by this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffpose_edge.errors import DiffPoseEdgeError

# What the figures were taken from, by the key that they name. "as at": where a document of the maker was read as others quote it.
# "not re-read": the address is the maker's own, the figure is common knowledge, and nobody opened the page for this table.
SOURCES: Mapping[str, str] = {
    "nano": (
        "NVIDIA, Jetson Orin Nano Series data sheet DS-11105-001, as at scribd.com/document/673174036 (1024 CUDA cores, 625 MHz, 8 GB; "
        "its 4 GB module, half as large: 10 dense INT8 TOPS)"
    ),
    "super": (
        "NVIDIA, Jetson Orin Nano Super, as at brojogopalsapui.com/ai-foundations/sub_contents/AI_hardware/jetson_orin_nano_light.html "
        "(67 sparse INT8 TOPS, was 40; 102 GB/s, was 68; 1.02 GHz, was 625 MHz; 25 W)"
    ),
    "nx": (
        "CUDA device query of an Orin NX 16 GB, gist.github.com/atinfinity/8cede915acda05d0ff427c09604735dd "
        "(8 multiprocessors, 1024 CUDA cores, 918 MHz, 2 MB of L2)"
    ),
    "agx": (
        "NVIDIA, Jetson AGX Orin Series technical brief, as at mzph.cn/web/30785.shtml "
        "(the GPU alone: 5.3 FP32 TFLOPS, 170 sparse INT8 TOPS, 16 multiprocessors, 4 MB of L2)"
    ),
    "orin": "NVIDIA, table of the Orin modules, nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-orin (not re-read)",
    "thor": (
        "huggingface.co/hardware/jetson-t5000 (258.5 TFLOPS, 128 GB); forums.developer.nvidia.com/t/356355 (device query: "
        "20 multiprocessors, 2560 CUDA cores, 32 MiB of L2); github.com/antirez/ds4/pull/788 (273 GB/s); "
        "torring.dev/blog/2026/rtx-spark-throttling (1.57 GHz, and how 2070 sparse FP4 TFLOPS follow)"
    ),
    "4090": (
        "NVIDIA, Ada GPU architecture white paper, as at waredb.com/processor/nvidia-geforce-rtx-4090 "
        "(82.6; 165.2; 660.6; 1008 GB/s; 24 GB; 72 MB of cache; 16384 CUDA cores)"
    ),
    "h200": (
        "NVIDIA, H200 page, as at morphllm.com/nvidia-h200 (SXM: 1979 FP16 and 3958 INT8 with sparsity, 141 GB, 4.8 TB/s) and "
        "itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html (132 multiprocessors)"
    ),
    "l4": (
        "NVIDIA, L4 page, as at store.sourcecode.com (485 INT8 TOPS with sparsity, 300 GB/s, 24 GB) and "
        "fpsbench.com/compare/gpu/nvidia-l4-vs-nvidia-tesla-m40 (30.3 FP32 TFLOPS, 7424 CUDA cores, 2040 MHz, 48 MB of L2)"
    ),
    "derived": (
        "computed from figures of the same device: FP32 = CUDA cores x 2 x clock; multiprocessors = CUDA cores / 128; a sparse figure "
        "halved; INT8 dense of an Orin = multiprocessors x 4096 x clock, which gives the 85 of AGX Orin and twice the 10 of the 4 GB "
        "Orin Nano; FP16 dense = half of INT8 dense"
    ),
    "assumed": "no public figure was found; the range is a guess that a measurement should replace",
}


@dataclass(frozen=True)
class Figure:
    """A figure and where it comes from: a key of SOURCES. ``low`` and ``high`` bound it where it is assumed."""

    value: float
    source: str
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest that it may be."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


@dataclass(frozen=True)
class Device:
    """A GPU: peaks in 1e12 dense operations a second, bandwidth of its memory in 1e9 bytes a second, sizes in 1e9 bytes and MiB.

    ``launch_us``: microseconds from one kernel's start to the next one's in a captured CUDA graph, when neither has anything to
    do; ``host_us``: what a frame costs on the host beside the GPU (launching the graph, waiting, means and covariances).
    ``shared``: whether its memory is the processor's as well. ``mode``: the power mode that the figures belong to.
    """

    name: str
    title: str
    fp32: Figure
    fp16: Figure
    int8: Figure
    memory_gb_per_s: Figure
    memory_gb: Figure
    l2_mib: Figure
    multiprocessors: Figure
    launch_us: Figure
    host_us: Figure
    shared: bool
    mode: str

    def figures(self) -> dict[str, Figure]:
        """Return all figures by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Figure)}

    def as_json(self) -> dict[str, Any]:
        """Return the device as plain values."""
        figures = {
            name: {"value": f.value, "low": f.bounds[0], "high": f.bounds[1], "source": f.source} for name, f in self.figures().items()
        }
        return {"name": self.name, "title": self.title, "shared": self.shared, "mode": self.mode, **figures}


def _assumed(low: float, value: float, high: float) -> Figure:
    return Figure(value, "assumed", low, high)


def _launch(ghz: float) -> Figure:
    """Thousands of cycles of the GPU's clock: 2.5, 5 and 10. An addition of 1024 numbers takes 1.1 to 1.3 us on the device
    (github.com/pytorch/pytorch/issues/161104), some 2500 cycles: no kernel is shorter.
    """
    return _assumed(round(2.5 / ghz, 2), round(5 / ghz, 2), round(10 / ghz, 2))


_PC_HOST, _JETSON_HOST, _THOR_HOST = _assumed(60, 150, 400), _assumed(150, 400, 1200), _assumed(80, 200, 600)

_ALL = (
    Device(
        "orin-nano-8gb", "Jetson Orin Nano 8 GB", Figure(1.28, "derived"), Figure(10.2, "derived"), Figure(20.5, "derived"),
        Figure(68, "super"), Figure(8, "nano"), _assumed(1, 2, 2), Figure(8, "derived"), _launch(0.625), _JETSON_HOST, True,
        "15 W, 625 MHz",
    ),
    Device(
        "orin-nano-super", "Jetson Orin Nano 8 GB, Super mode", Figure(2.09, "derived"), Figure(16.75, "derived"), Figure(33.5, "derived"),
        Figure(102, "super"), Figure(8, "nano"), _assumed(1, 2, 2), Figure(8, "derived"), _launch(1.02), _JETSON_HOST, True,
        "25 W or MAXN SUPER, 1020 MHz",
    ),
    Device(
        "orin-nx-16gb", "Jetson Orin NX 16 GB", Figure(1.88, "derived"), Figure(15, "derived"), Figure(30, "derived"),
        Figure(102.4, "orin"), Figure(16, "orin"), Figure(2, "nx"), Figure(8, "nx"), _launch(0.918), _JETSON_HOST, True, "MAXN, 918 MHz",
    ),
    Device(
        "agx-orin-64gb", "Jetson AGX Orin 64 GB", Figure(5.3, "agx"), Figure(42.5, "derived"), Figure(85, "derived"),
        Figure(204.8, "orin"), Figure(64, "orin"), Figure(4, "agx"), Figure(16, "agx"), _launch(1.3), _JETSON_HOST, True, "MAXN, 1.3 GHz",
    ),
    Device(
        "thor", "Jetson T5000 (AGX Thor)", Figure(8.04, "derived"), Figure(258.5, "thor"), _assumed(258.5, 517, 517),
        Figure(273, "thor"), Figure(128, "thor"), Figure(32, "thor"), Figure(20, "thor"), _launch(1.57), _THOR_HOST, True, "MAXN, 1.57 GHz",
    ),
    Device(
        "rtx-4090", "GeForce RTX 4090", Figure(82.6, "4090"), Figure(165.2, "4090"), Figure(660.6, "4090"),
        Figure(1008, "4090"), Figure(24, "4090"), Figure(72, "4090"), Figure(128, "derived"), _launch(2.52), _PC_HOST, False, "450 W",
    ),
    Device(
        "h200", "H200 SXM", _assumed(60, 67, 67), Figure(989.5, "derived"), Figure(1979, "derived"),
        Figure(4800, "h200"), Figure(141, "h200"), _assumed(30, 50, 60), Figure(132, "h200"), _launch(1.98), _PC_HOST, False, "700 W",
    ),
    Device(
        "l4", "L4", Figure(30.3, "l4"), Figure(121, "derived"), Figure(242.5, "derived"),
        Figure(300, "l4"), Figure(24, "l4"), Figure(48, "l4"), Figure(58, "derived"), _launch(2.04), _PC_HOST, False, "72 W, 2040 MHz",
    ),
)  # fmt: skip
DEVICES: Mapping[str, Device] = {device.name: device for device in _ALL}
# Other names that people use.
ALIASES: Mapping[str, str] = {"jetson-thor-t5000": "thor", "orin-nano-8gb-super": "orin-nano-super"}


def device_of(name: str) -> Device:
    """Return a device by its name. Raises DiffPoseEdgeError, with the known names."""
    found = DEVICES.get(ALIASES.get(name, name))
    if found is None:
        raise DiffPoseEdgeError(f"expected a device that is known: {', '.join(DEVICES)}; or this-cpu, which is measured. Got {name!r}")
    return found
