"""The planner's arithmetic: units, what must never be faster, and faults planted in its inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffpose_edge.benchmarks.devices import ALIASES, DEVICES, SOURCES, Device, Figure, device_of
from diffpose_edge.benchmarks.graph_cost import GraphCost, NodeWork
from diffpose_edge.benchmarks.launches import Launches
from diffpose_edge.benchmarks.machine_peaks import Peaks
from diffpose_edge.benchmarks.planner import CpuLoad, GpuLoad, Plan, Range, Wanted, cpu_load, cpu_ms, cpu_plan, gpu_ms, gpu_plan, largest_k
from diffpose_edge.errors import DiffPoseEdgeError

WANTED = Wanted("fp16", 5, 50, 30.0)


def load(samples: int = 5, kind: str = "float16", launches: int = 120, counted: bool = True) -> GpuLoad:
    """About a step: 40 matmuls and 200 other nodes, whose sizes grow with the samples."""
    width = {"float32": 4, "float16": 2, "int8": 1}[kind]
    matmul = NodeWork("MatMul", samples * 600_000, 0, 30_000 * width, samples * 6_000 * width, kind, max(1, samples) * 17 * 96)
    other = NodeWork("Add", 0, samples * 1600, 0, samples * 3200 * width, "", samples * 1600)
    work = (matmul,) * 40 + (other,) * 200
    cost = GraphCost(
        matmul_flops=sum(each.matmul_flops for each in work),
        other_flops=sum(each.other_flops for each in work),
        weight_bytes=sum(each.weight_bytes for each in work),
        activation_bytes=sum(each.activation_bytes for each in work),
        border_bytes=0,
        nodes=len(work),
        running=len(work),
        matmul_flops_of={kind: samples * 24_000_000},
        work=work,
    )
    return GpuLoad(cost, Launches(40, launches - 40, counted))


def plan(device: Device, wanted: Wanted = WANTED, **sizes: object) -> Plan:
    return gpu_plan(load(1, **sizes), load(**sizes), device, wanted)  # type: ignore[arg-type]


def ordered(value: Range) -> bool:
    return value.fast <= value.typical <= value.slow


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_a_range_is_in_order_and_more_never_costs_less(device: Device) -> None:
    found = plan(device)
    for value in (found.step_ms, found.encoder_ms, found.around_ms, found.frame_ms, found.memory_mb):
        assert value.fast > 0
        assert ordered(value)
    assert found.frame_ms.typical == pytest.approx(found.encoder_ms.typical + found.around_ms.typical + 5 * found.step_ms.typical)
    assert plan(device, replace(WANTED, K=6)).frame_ms.fast > found.frame_ms.fast
    many = gpu_ms(load(samples=20_000), device)[0]
    few = gpu_ms(load(samples=5), device)[0]
    assert many.fast >= few.fast
    assert many.typical >= few.typical
    assert many.slow > few.slow
    assert gpu_ms(load(launches=240), device)[0].typical > few.typical
    assert sum(found.limits.values()) == pytest.approx(1, abs=0.002)
    assert found.fits


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "memory_gb_per_s", "l2_mib"])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_slower_device_is_never_faster(name: str, kind: str) -> None:
    """On any number, in any scenario; large loads, so that what is slowed down counts."""
    for device in DEVICES.values():
        figure: Figure = getattr(device, name)
        slower = replace(device, **{name: Figure(figure.value / 3, "assumed", figure.bounds[0] / 3, figure.bounds[1] / 3)})
        for samples in (1, 50, 2000):
            a, b = (gpu_ms(load(samples, kind), each)[0] for each in (device, slower))
            assert all(before <= after for before, after in zip(vars(a).values(), vars(b).values(), strict=True))
    if name == {"float32": "fp32", "float16": "fp16", "int8": "int8"}[kind]:
        assert b.slow > a.slow


def test_slower_launches_are_slower() -> None:
    device = DEVICES["orin-nano-8gb"]
    slower = replace(device, launch_us=Figure(2 * device.launch_us.value, "assumed", *(2 * bound for bound in device.launch_us.bounds)))
    assert gpu_ms(load(), slower)[0].fast == pytest.approx(2 * gpu_ms(load(), device)[0].fast, rel=0.05)


def test_units_of_a_gpu() -> None:
    """One enormous matmul at 1 TFLOP/s, and 100 launches of 10 us that do nothing: seconds, not thousands of them."""
    device = replace(DEVICES["rtx-4090"], fp32=Figure(1.0, "l4"), multiprocessors=Figure(1, "l4"), launch_us=Figure(10.0, "l4"))
    work = (NodeWork("MatMul", 10**12, 0, 0, 0, "float32", 10**6),)
    one = GpuLoad(GraphCost(10**12, 0, 0, 0, 0, 1, 1, {"float32": 10**12}, {}, work), Launches(1, 0, True))
    # Four fifths of the peak at best.
    assert gpu_ms(one, device)[0].fast == pytest.approx(1250)
    assert gpu_ms(one, device)[1] == {"launches": 0.0, "operations": 1.0, "bytes": 0.0}
    nothing = (NodeWork("Relu", 0, 0, 0, 0, "", 1),) * 100
    idle = GpuLoad(GraphCost(0, 0, 0, 0, 0, 100, 100, {}, {}, nothing), Launches(0, 100, True))
    assert gpu_ms(idle, device)[0].typical == pytest.approx(1.0)
    copy = (NodeWork("Transpose", 0, 0, 0, 10**9, "", 10**8),)
    moved = GpuLoad(GraphCost(0, 0, 0, 10**9, 0, 1, 1, {}, {}, copy), Launches(0, 1, True))
    # A gigabyte at 1008 GB/s, nine tenths of it at best; no cache holds it.
    assert gpu_ms(moved, device)[0].fast == pytest.approx(1000 / 1008 / 0.9)


def test_every_launch_has_one_floor() -> None:
    """120 launches, 40 of them matmuls, too small for anything else to count; and 20, where attentions are fused."""
    device = DEVICES["agx-orin-64gb"]
    for number, matmuls in ((120, 40), (20, 20)):
        tiny = GpuLoad(load(samples=0).cost, Launches(matmuls, number - matmuls, True))
        assert gpu_ms(tiny, device)[0].typical == pytest.approx(number * device.launch_us.value / 1000)


def test_idle_multiprocessors_cost() -> None:
    """The same operations in a matrix of 64 x 64 results use one multiprocessor of 128."""

    def one(results: int) -> float:
        work = (NodeWork("MatMul", 10**10, 0, 0, 0, "float32", results),)
        return gpu_ms(GpuLoad(GraphCost(10**10, 0, 0, 0, 0, 1, 1, {}, {}, work), Launches(1, 0, True)), DEVICES["rtx-4090"])[0].typical

    assert one(64 * 64) == pytest.approx(128 * one(128 * 64 * 64))


def test_an_estimate_widens_the_range() -> None:
    counted, guessed = (gpu_ms(load(counted=counted), DEVICES["thor"])[0] for counted in (True, False))
    assert guessed.fast < counted.fast
    assert guessed.typical == pytest.approx(counted.typical)
    assert guessed.slow > counted.slow


def test_the_largest_k_is_the_last_that_keeps_the_rate() -> None:
    found = largest_k(100, Range(1, 2, 20), Range(1.5, 2.0, 3.0), 50)
    assert found == Range(6, 4, 0)
    for rest, step, most in ((1, 1.5, 6), (2, 2.0, 4)):
        assert rest + most * step <= 10 < rest + (most + 1) * step
    assert largest_k(1, Range(1, 1, 1), Range(1, 1, 1), 50) == Range(50, 50, 50)
    assert plan(DEVICES["thor"], replace(WANTED, fps=None)).largest_k is None


def test_what_does_not_fit_is_told() -> None:
    device = replace(DEVICES["thor"], memory_gb=Figure(0.5, "thor"))
    assert not plan(device).fits


@pytest.mark.parametrize(("K", "fps"), [(0, None), (51, None), (5, 0.0), (5, -30.0), (5, float("nan")), (5, float("inf"))])
def test_what_makes_no_plan_is_refused(K: int, fps: float | None) -> None:
    with pytest.raises(DiffPoseEdgeError, match="expected"):
        Wanted("fp16", K, 50, fps)


def test_figures_have_sources_and_assumed_ones_a_range() -> None:
    for device in DEVICES.values():
        for name, figure in device.figures().items():
            what = f"{device.name} {name}"
            assert figure.source in SOURCES, what
            low, high = figure.bounds
            assert 0 < low <= figure.value <= high, what
            assert (low < high) == (figure.source == "assumed"), what
        # Tensor cores: INT8 twice FP16, which no GPU here does slower than FP32.
        assert device.fp32.value < device.fp16.value < device.int8.value
        assert device.int8.value / device.fp16.value == pytest.approx(2, rel=0.02) or device.name == "rtx-4090"
    assert {figure.source for device in DEVICES.values() for figure in device.figures().values()} == set(SOURCES)


def test_no_sparse_figure_slipped_in() -> None:
    """The headlines with sparsity, by device: 40 and 67 (Orin Nano), 170 (AGX Orin's GPU), 1979 and 3958 (H200), 242 and 485 (L4)."""
    headlines = {"orin-nano-8gb": 40, "orin-nano-super": 67, "agx-orin-64gb": 170, "h200": 3958, "l4": 485, "rtx-4090": 1321}
    for name, sparse in headlines.items():
        assert DEVICES[name].int8.value == pytest.approx(sparse / 2, rel=0.03)


def test_derived_figures_follow_from_cores_and_clock() -> None:
    for name, ghz in (("orin-nano-8gb", 0.625), ("orin-nano-super", 1.02), ("orin-nx-16gb", 0.918), ("agx-orin-64gb", 1.3)):
        device = DEVICES[name]
        cores = 128 * device.multiprocessors.value
        assert device.fp32.value == pytest.approx(cores * 2 * ghz / 1000, rel=0.02)
        assert device.int8.value == pytest.approx(device.multiprocessors.value * 4096 * ghz / 1000, rel=0.02)


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DiffPoseEdgeError, match=r"orin-nano-8gb, .*h200.*Got 'nano'"):
        device_of("nano")
    for alias, name in ALIASES.items():
        assert device_of(alias) is DEVICES[name]


CPU_LOAD = CpuLoad(125_000_000, 1_300_000, 2_600_000, 18_000_000, 0, 317)
PEAKS = Peaks(1, 120.0, 5.0, 45.0, 0.4)


def test_units_of_a_processor() -> None:
    free = Peaks(1, 1e12, 1e12, 1e12, 0.0)
    assert cpu_ms(CpuLoad(10**9, 0, 0, 0, 0, 0), replace(free, sgemm_gflops=100.0))[0].fast == pytest.approx(10)
    assert cpu_ms(CpuLoad(0, 0, 0, 10**7, 0, 0), replace(free, cache_gb_per_s=50.0))[0].fast == pytest.approx(0.2)
    assert cpu_ms(CpuLoad(0, 0, 10**7, 0, 0, 0), replace(free, memory_gb_per_s=5.0))[0].slow == pytest.approx(2)
    assert cpu_ms(CpuLoad(0, 0, 0, 0, 0, 300), replace(free, node_us=0.5))[0].fast == pytest.approx(0.15)


def test_what_no_cache_holds_comes_from_memory() -> None:
    near, far = (cpu_ms(CpuLoad(0, 0, 0, *amounts, 0), PEAKS)[0] for amounts in ((10**7, 0), (0, 10**7)))
    assert far.fast == pytest.approx(near.fast)
    assert near.typical < far.typical < far.slow == pytest.approx(1000 * 10**7 / 5e9)


def test_a_slower_processor_is_never_faster_and_more_never_costs_less() -> None:
    plain = cpu_ms(CPU_LOAD, PEAKS)[0]
    assert ordered(plain)
    for name in ("sgemm_gflops", "memory_gb_per_s", "cache_gb_per_s"):
        slower = cpu_ms(CPU_LOAD, replace(PEAKS, **{name: getattr(PEAKS, name) / 2}))[0]
        assert slower.slow > plain.slow, name
        assert slower.fast >= plain.fast, name
    assert cpu_ms(CPU_LOAD, replace(PEAKS, node_us=0.8))[0].typical > plain.typical
    for name in vars(CPU_LOAD):
        more = replace(CPU_LOAD, **{name: 2 * getattr(CPU_LOAD, name) + 10**6})
        assert cpu_ms(more, PEAKS)[0].typical > plain.typical, name


def test_a_plan_for_a_processor() -> None:
    found = cpu_plan(CPU_LOAD, CPU_LOAD, PEAKS, Wanted("fp32", 5, 50, 30.0))
    assert found.launches is None
    assert found.frame_ms.typical == pytest.approx(found.encoder_ms.typical + found.around_ms.typical + 5 * found.step_ms.typical)
    assert found.largest_k is not None
    assert found.largest_k.slow <= found.largest_k.typical <= found.largest_k.fast


def test_what_is_too_much_for_a_cache_is_far() -> None:
    work = (NodeWork("Add", 0, 1, 0, 2**20), NodeWork("Add", 0, 1, 0, 2**20 + 1))
    found = cpu_load(GraphCost(0, 2, 7, 2**21 + 1, 0, 2, 2, work=work), 2)
    assert (found.near_bytes, found.far_bytes, found.weight_bytes) == (2**20, 2**20 + 1, 7)
