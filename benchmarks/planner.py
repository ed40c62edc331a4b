"""What a bundle should cost on a device: a roofline with a floor for each launch, in three scenarios. docs/plan.md explains it.

A GPU runs one launch after another, and each takes the longest of three times: its operations at what part of the peak small
matrices reach, its bytes at what part of the bandwidth, and the floor below which no launch comes. A processor runs one operator
after another, and each takes all three: its operations, its bytes, and what calling it costs. The scenarios (fast, typical, slow)
take every uncertain number at its best, at a middle value and at its worst; the truth should lie between the outer two.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from diffpose_edge.benchmarks.devices import Device, Figure
from diffpose_edge.benchmarks.graph_cost import GraphCost, NodeWork
from diffpose_edge.benchmarks.launches import Launches
from diffpose_edge.benchmarks.machine_peaks import Peaks
from diffpose_edge.errors import DiffPoseEdgeError

# Results that one block of a matmul kernel computes: a product with fewer of them than blocks times multiprocessors leaves some idle.
BLOCK = 64 * 64
# Bytes above which what a processor's operator touches is not taken to stay in a cache.
NEAR_BYTES = 2**20


@dataclass(frozen=True)
class Range:
    """A quantity in the three scenarios."""

    fast: float
    typical: float
    slow: float

    def __add__(self, other: Range) -> Range:
        return Range(self.fast + other.fast, self.typical + other.typical, self.slow + other.slow)

    def __mul__(self, factor: float) -> Range:
        return Range(self.fast * factor, self.typical * factor, self.slow * factor)

    def as_json(self) -> dict[str, float]:
        """Return it as plain values, to four digits."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Scenario:
    """How well things go on a GPU: parts of the peak and of the bandwidth that are reached, and how many times the memory's
    bandwidth the second level cache gives to what fits into it.
    """

    efficiency: float
    bandwidth: float
    cache: float


# A third of the peak is what tuned kernels of middling size reach, four fifths the best large ones; ten per cent is a poor tactic.
GPU = (Scenario(0.8, 0.9, 4.0), Scenario(0.35, 0.7, 2.0), Scenario(0.1, 0.5, 1.0))


@dataclass(frozen=True)
class CpuScenario:
    """The same on a processor; ``node`` is how many times the cost of an idle operator calling a real one costs."""

    efficiency: float
    cache: float
    node: float


CPU = (CpuScenario(1.0, 1.0, 1.0), CpuScenario(0.7, 0.7, 4.0), CpuScenario(0.4, 0.4, 8.0))


@dataclass(frozen=True)
class GpuLoad:
    """A graph as a GPU sees it: what it costs, and its launches."""

    cost: GraphCost
    launches: Launches


@dataclass(frozen=True)
class CpuLoad:
    """A graph as a processor sees it, in a few numbers, so that a record of a measurement can hold it.

    ``near_bytes`` and ``far_bytes``: activations that operators read and write, of operators that touch little enough for a cache,
    and of the others. ``nodes``: the operators that ONNX Runtime is left with after its own optimisations.
    """

    matmul_flops: int
    other_flops: int
    weight_bytes: int
    near_bytes: int
    far_bytes: int
    nodes: int


def cpu_load(cost: GraphCost, nodes: int) -> CpuLoad:
    """Return a graph as a processor sees it."""
    near = sum(work.activation_bytes for work in cost.work if work.activation_bytes <= NEAR_BYTES)
    return CpuLoad(cost.matmul_flops, cost.other_flops, cost.weight_bytes, near, cost.activation_bytes - near, nodes)


@dataclass(frozen=True)
class Plan:
    """What is expected: milliseconds of a step, of the encoder, of what surrounds them, and of a frame of K steps; the largest K
    for ``fps`` frames a second (0: not even one), at most T; megabytes of memory, and whether the device has as much. ``limits``
    says what a step spends its time on in the typical scenario; ``launches`` are those of a step.
    """

    device: str
    precision: str
    K: int
    step_ms: Range
    encoder_ms: Range
    around_ms: Range
    frame_ms: Range
    memory_mb: Range
    fits: bool
    limits: dict[str, float]
    launches: int | None
    launches_counted: bool
    fps: float | None = None
    largest_k: Range | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        values = {name: value.as_json() if isinstance(value, Range) else value for name, value in vars(self).items()}
        return values


def gpu_ms(load: GpuLoad, device: Device) -> tuple[Range, dict[str, float]]:
    """Return milliseconds of one run on a GPU, and for the typical scenario the share of launches' floor, operations and bytes."""
    times, shares = [], {}
    for index, scenario in enumerate(GPU):
        total = dict.fromkeys(("launches", "operations", "bytes"), 0.0)
        for count, alternatives in _gpu_launches(load, device, scenario, index):
            longest = max(alternatives, key=lambda name: alternatives[name])
            total[longest] += count * alternatives[longest]
        times.append(1000 * sum(total.values()))
        if index == 1:
            shares = {name: round(value / sum(total.values()), 3) for name, value in total.items()}
    return Range(*times), shares


def _gpu_launches(load: GpuLoad, device: Device, scenario: Scenario, index: int) -> list[tuple[float, dict[str, float]]]:
    """Each launch as how many there are of it and the seconds that it would take for each of the three reasons."""
    fewest, most = load.launches.bounds
    number = (fewest, float(load.launches.number), most)[index]
    floor = _of_cost(device.launch_us, index) * 1e-6
    peaks = {"float32": device.fp32, "float16": device.fp16, "int8": device.int8}
    bandwidth = _of_gain(device.memory_gb_per_s, index) * 1e9 * scenario.bandwidth
    # Weights and the state of one step still lie in the cache at the next one, if all of it fits in.
    if load.cost.weight_bytes + 2 * _largest(load.cost) <= _of_gain(device.l2_mib, index) * 2**20:
        bandwidth *= scenario.cache
    multiprocessors = device.multiprocessors.value

    def seconds(work: NodeWork) -> dict[str, float]:
        busy = min(1.0, math.ceil(work.results / BLOCK) / multiprocessors)
        peak = _of_gain(peaks.get(work.kind, device.fp32), index) * 1e12 * scenario.efficiency * busy
        return {"launches": floor, "operations": work.matmul_flops / peak, "bytes": (work.weight_bytes + work.activation_bytes) / bandwidth}

    matmuls = [work for work in load.cost.work if work.kind]
    rest = [work for work in load.cost.work if not work.kind]
    found = [(1.0, seconds(work)) for work in matmuls]
    # An attention in one launch is three nodes here: the number of launches decides how many floors there are.
    others = max(0.0, number - len(found))
    if number < len(found):
        found = [(number / len(found), alternatives) for _, alternatives in found]
    if rest and others:
        # A launch that joins several nodes moves about what one of them moves.
        moved = sum(work.weight_bytes + work.activation_bytes for work in rest) / len(rest)
        operations = sum(work.other_flops for work in rest) / others / (_of_gain(device.fp32, index) * 1e12 * scenario.efficiency)
        found.append((others, {"launches": floor, "operations": operations, "bytes": moved / bandwidth}))
    return found


def cpu_ms(load: CpuLoad, peaks: Peaks) -> tuple[Range, dict[str, float]]:
    """Return milliseconds of one run in ONNX Runtime on a processor, and the shares of the typical scenario."""
    times, shares = [], {}
    memory = peaks.memory_gb_per_s * 1e9
    for index, scenario in enumerate(CPU):
        near = peaks.cache_gb_per_s * 1e9 * scenario.cache
        # Weights are read once per run, and much else passes through the caches before the next: only at best they stay.
        weights = (near, memory, memory)[index]
        far = (near, math.sqrt(near * memory), memory)[index]
        peak = peaks.sgemm_gflops * 1e9 * scenario.efficiency
        total = {
            "launches": load.nodes * peaks.node_us * 1e-6 * scenario.node,
            # Functions and reductions have no multiply-add and no blocking: a quarter of a matmul's rate.
            "operations": (load.matmul_flops + 4 * load.other_flops) / peak,
            "bytes": load.weight_bytes / weights + load.near_bytes / near + load.far_bytes / far,
        }
        times.append(1000 * sum(total.values()))
        if index == 1:
            shares = {name: round(value / sum(total.values()), 3) for name, value in total.items()}
    return Range(*times), shares


@dataclass(frozen=True)
class Wanted:
    """What a plan is asked for: K steps of a schedule of T, in a precision, and ``fps`` frames a second, or no rate."""

    precision: str
    K: int
    T: int
    fps: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.K <= self.T:
            raise DiffPoseEdgeError(f"expected K within 1..{self.T}, the bundle's schedule, got {self.K}")
        if self.fps is not None and not 0 < self.fps < 1e6:
            raise DiffPoseEdgeError(f"expected a number of frames a second above 0, got {self.fps:g}")


def gpu_plan(encoder: GpuLoad, step: GpuLoad, device: Device, wanted: Wanted) -> Plan:
    """Return what a frame is expected to cost on a GPU, captured as one CUDA graph."""
    step_ms, limits = gpu_ms(step, device)
    # Copies in and out and the start graph are a handful of launches.
    around = Range(*((_of_cost(device.host_us, index) + 4 * _of_cost(device.launch_us, index)) / 1000 for index in range(3)))
    memory = _device_memory(encoder, step)
    fits = memory.slow < 1000 * device.memory_gb.value
    counted = encoder.launches.counted and step.launches.counted
    return _plan(device.name, wanted, step_ms, gpu_ms(encoder, device)[0], around, memory, fits, limits, step.launches.number, counted)


def cpu_plan(encoder: CpuLoad, step: CpuLoad, peaks: Peaks, wanted: Wanted) -> Plan:
    """Return what a frame is expected to cost on this machine's processor, in ONNX Runtime."""
    step_ms, limits = cpu_ms(step, peaks)
    # Python, start and aggregation: assumed. So is what the interpreter, numpy and ONNX Runtime occupy.
    around = Range(0.05, 0.2, 0.8)
    weights = (encoder.weight_bytes + step.weight_bytes) / 1e6
    memory = Range(50 + weights, 80 + 2 * weights, 150 + 4 * weights)
    return _plan("this-cpu", wanted, step_ms, cpu_ms(encoder, peaks)[0], around, memory, True, limits, None, False)


def _plan(
    name: str,
    wanted: Wanted,
    step: Range,
    encoder: Range,
    around: Range,
    memory: Range,
    fits: bool,
    limits: dict[str, float],
    launches: int | None,
    counted: bool,
) -> Plan:
    most = None if wanted.fps is None else largest_k(wanted.fps, encoder + around, step, wanted.T)
    frame = encoder + around + step * wanted.K
    return Plan(
        name, wanted.precision, wanted.K, step, encoder, around, frame, memory, fits, limits, launches, counted, wanted.fps, most
    )  # fmt: skip


def largest_k(fps: float, without_steps: Range, step_ms: Range, T: int) -> Range:
    """Return the most steps that leave ``fps`` frames a second possible, within 0..T, in each scenario."""
    budget = 1000 / fps
    pairs = zip(vars(without_steps).values(), vars(step_ms).values(), strict=True)
    return Range(*(min(T, max(0, math.floor((budget - rest) / step + 1e-9))) for rest, step in pairs))


def _device_memory(encoder: GpuLoad, step: GpuLoad) -> Range:
    """Megabytes: both engines, their activations, and what CUDA and TensorRT keep for themselves (assumed 200 to 700)."""
    loads = (encoder, step)
    weights = sum(load.cost.weight_bytes for load in loads) / 1e6
    # A plan holds kernels as well: the counted ones are 3 to 8 MB, whatever the weights.
    plans = sum(load.launches.plan_bytes or load.cost.weight_bytes + 6e6 for load in loads) / 1e6
    live = sum(_largest(load.cost) for load in loads) / 1e6
    return Range(max(weights, plans) + live + 200, 1.2 * plans + 2 * live + 400, 2 * plans + 4 * live + 700)


def _largest(cost: GraphCost) -> int:
    return max((work.activation_bytes for work in cost.work), default=0)


def _of_cost(figure: Figure, index: int) -> float:
    """A figure of which less is better, in a scenario."""
    return (figure.bounds[0], figure.value, figure.bounds[1])[index]


def _of_gain(figure: Figure, index: int) -> float:
    """A figure of which more is better, in a scenario."""
    return (figure.bounds[1], figure.value, figure.bounds[0])[index]
