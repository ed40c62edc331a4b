"""What machines say of themselves, in the forms that they really use, whole and broken.

Lines of tegrastats have the form of lines that others published: Xavier NX with JetPack 4 and 5, TX2 with JetPack 4, AGX Orin with
JetPack 5 and 6, Orin Nano with JetPack 6, Thor's rails with JetPack 7; shortened, with other numbers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.benchmarks.telemetry_nvml import nvml
from diffpose_edge.benchmarks.telemetry_rapl import Rapl, rapl
from diffpose_edge.benchmarks.telemetry_sysfs import clocks, temperatures, throttle_counts
from diffpose_edge.benchmarks.telemetry_tegrastats import Tegrastats, parsed, tegrastats

TX2_JETPACK_4 = (
    "RAM 2135/7855MB (lfb 1057x4MB) CPU [2%@2035,off,off,3%@1990] EMC_FREQ 1%@1866 GR3D_FREQ 0%@1300 APE 150 MTS fg 0% bg 0% "
    "BCPU@30C thermal@29.4C VDD_IN 3104/4029 VDD_CPU 291/730"
)
XAVIER_JETPACK_5 = (
    "RAM 2690/6854MB (lfb 6x1MB) SWAP 479/3427MB (cached 3MB) CPU [3%@1904,7%@1906,off,off] EMC_FREQ 0%@1600 GR3D_FREQ 12%@[510] "
    "VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C VDD_IN 5079mW/5079mW VDD_CPU_GPU_CV 696mW/690mW VDD_SOC 1104mW/1104mW"
)
AGX_ORIN_JETPACK_5 = (
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 CV0@-256C CPU@42.593C GPU@-256C tj@42.593C VDD_GPU_SOC 2399mW/2399mW VIN_SYS_5V0 4032mW/4032mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW"
)
ORIN_NANO_JETPACK_6 = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@1510] EMC_FREQ 43%@2133 "
    "GR3D_FREQ 63%@[621] NVDEC off VIC off APE 200 cpu@53.968C tj@53.968C VDD_IN 12479mW/12000mW VDD_CPU_GPU_CV 4667mW/4667mW"
)
AGX_ORIN_JETPACK_6 = "GR3D_FREQ 0%@[408,407] NVENC 79%@166 VIC 36%@115 PVA0_FREQ off cpu@52.562C VDD_CPU_CV 1607mW/1607mW"
THOR_JETPACK_7 = "GR3D_FREQ @[0,0] tj@55.1C VDD_GPU 2400mW/2380mW VDD_CPU_SOC_MSS 6510mW/6510mW VIN_SYS_5V0 6520mW/6500mW VIN 23000mW/1mW"


@pytest.mark.parametrize(
    ("line", "power", "clock", "temperature"),
    [
        (
            TX2_JETPACK_4,
            {"VDD_IN": 3.104, "VDD_CPU": 0.291},
            {"fastest core": 2035, "GR3D": 1300},
            {"BCPU": 30, "thermal": 29.4},
        ),
        (
            XAVIER_JETPACK_5,
            {"VDD_IN": 5.079, "VDD_CPU_GPU_CV": 0.696, "VDD_SOC": 1.104},
            {"fastest core": 1906, "GR3D": 510},
            {"AUX": 39, "CPU": 39.5},
        ),
        (
            AGX_ORIN_JETPACK_5,
            {"VDD_GPU_SOC": 2.399, "VIN_SYS_5V0": 4.032, "VDDQ_VDD2_1V8AO": 0.301},
            {"fastest core": 729},
            {"CPU": 42.593, "tj": 42.593},
        ),
        (
            ORIN_NANO_JETPACK_6,
            {"VDD_IN": 12.479, "VDD_CPU_GPU_CV": 4.667},
            {"fastest core": 1510, "GR3D": 621},
            {"cpu": 53.968, "tj": 53.968},
        ),
        (AGX_ORIN_JETPACK_6, {"VDD_CPU_CV": 1.607}, {"GR3D": 408}, {"cpu": 52.562}),
        (THOR_JETPACK_7, {"VDD_GPU": 2.4, "VDD_CPU_SOC_MSS": 6.51, "VIN_SYS_5V0": 6.52, "VIN": 23.0}, {}, {"tj": 55.1}),
        # A line that was cut off, one without anything, and what is no line of tegrastats.
        ("RAM 2690/6854MB (lfb 6x1MB) CPU [3%@1904,7%@19", {}, {}, {}),
        ("CPU [off,off] GR3D_FREQ VDD_IN 12mW VDD_SOC mW/3mW VDD_CPU 5mW/5m", {}, {}, {}),
        ("", {}, {}, {}),
        ("tegrastats: permission denied", {}, {}, {}),
    ],
)
def test_a_line_of_tegrastats(line: str, power: dict[str, float], clock: dict[str, float], temperature: dict[str, float]) -> None:
    expected = {("power_w", name): watts for name, watts in power.items()}
    expected |= {("clock_mhz", name): float(mhz) for name, mhz in clock.items()}
    expected |= {("temperature_c", name): float(t) for name, t in temperature.items()}
    assert parsed(line) == pytest.approx(expected)


def test_tegrastats_is_read_as_it_prints_and_ended(tmp_path: Path) -> None:
    """A double of the program: two lines, and half of a third."""
    script = tmp_path / "tegrastats"
    lines = f"{XAVIER_JETPACK_5}\n{ORIN_NANO_JETPACK_6}\nRAM 1/2MB VDD_IN 1mW/"
    script.write_text(
        f"#!{sys.executable}\nimport sys, time\nassert sys.argv[1] == '--interval'\nprint({lines!r}, end='', flush=True)\ntime.sleep(60)\n"
    )
    script.chmod(0o755)
    found = tegrastats(str(script))
    assert isinstance(found, Tegrastats)
    until = time.perf_counter() + 20
    while not (read := found.read()) and time.perf_counter() < until:
        time.sleep(0.01)
    assert read == parsed(ORIN_NANO_JETPACK_6)
    assert found.read() == {}
    found.close()
    found.close()
    assert found._process.returncode is not None


def test_where_there_is_no_tegrastats() -> None:
    assert "belongs to a Jetson" in str(tegrastats("no-such-program"))


def zone(folder: Path, name: str, called: str, energy: int, most: int = 1000) -> Path:
    place = folder / name
    place.mkdir()
    for file, content in (("name", called), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (place / file).write_text(f"{content}\n")
    return place


def test_energy_counters_run_on_where_they_begin_anew(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    zone(tmp_path, "intel-rapl:0:0", "core", 10)
    other = zone(tmp_path, "intel-rapl:1", "package-1", 5)
    zone(tmp_path, "intel-rapl:1:0", "core", 20)
    zone(tmp_path, "intel-rapl:2", "psys", 0)
    (tmp_path / "intel-rapl").mkdir()
    found = rapl(tmp_path)
    assert isinstance(found, Rapl)
    assert set(found.read()) == {("energy_j", name) for name in ("package-0", "package-0/core", "package-1", "package-1/core", "psys")}
    assert found.packages_j() == 0.0
    (package / "energy_uj").write_text("50\n")  # 900 to 1000, and 50 more
    (other / "energy_uj").write_text("25\n")
    assert found.packages_j() == pytest.approx(170e-6)
    (package / "energy_uj").write_text("60\n")
    assert found.read()["energy_j", "package-0"] == pytest.approx(160e-6)


def test_energy_counters_that_are_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    assert "no energy counters" in str(rapl(tmp_path))
    place = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    (place / "energy_uj").write_text("many\n")
    assert "cannot be read" in str(rapl(tmp_path))


def test_energy_counters_for_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    real = Path.read_text

    def read_text(path: Path, encoding: str | None = None) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", read_text)  # whoever runs the tests may be root
    assert rapl(tmp_path) == f"{place / 'energy_uj'} is for root alone"


def test_the_clock_is_that_of_the_fastest_core(tmp_path: Path) -> None:
    assert "no clocks" in str(clocks(tmp_path))
    for core, khz in enumerate((800000, 3500000, 1200000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    found = clocks(tmp_path)
    assert not isinstance(found, str)
    assert found.read() == {("clock_mhz", "fastest core"): 3500.0}
    (tmp_path / "cpu1" / "cpufreq" / "scaling_cur_freq").unlink()  # it went offline
    assert found.read() == {("clock_mhz", "fastest core"): 1200.0}


def test_thermal_zones_have_their_types_as_names(tmp_path: Path) -> None:
    assert "no thermal zones" in str(temperatures(tmp_path))
    for number, (kind, content) in enumerate((("acpitz", 27800), ("x86_pkg_temp", 51000), ("acpitz", 29800), ("GPU", -256000))):
        folder = tmp_path / f"thermal_zone{number}"
        folder.mkdir()
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(f"{content}\n")
    (tmp_path / "thermal_zone10").mkdir()  # without anything in it
    found = temperatures(tmp_path)
    assert not isinstance(found, str)
    assert found.read() == {("temperature_c", "acpitz"): 27.8, ("temperature_c", "x86_pkg_temp"): 51.0, ("temperature_c", "acpitz 2"): 29.8}
    (tmp_path / "thermal_zone1" / "temp").write_text("hot\n")
    assert ("temperature_c", "x86_pkg_temp") not in found.read()


def test_throttling_is_counted(tmp_path: Path) -> None:
    assert "does not count" in str(throttle_counts(tmp_path, tmp_path))
    heat, current = tmp_path / "cpu0" / "thermal_throttle", tmp_path / "hwmon3"
    for folder in (heat, current):
        folder.mkdir(parents=True)
    (heat / "core_throttle_count").write_text("4\n")
    (heat / "core_throttle_total_time_ms").write_text("9\n")
    (current / "oc1_event_cnt").write_text("1\n")
    found = throttle_counts(tmp_path, tmp_path)
    assert not isinstance(found, str)
    assert found.read() == {("throttle_events", "cpu0 core by heat"): 4, ("throttle_events", "oc1 by current"): 1}


class NvmlDouble:
    """Two GPUs as pynvml tells of them: the second, like a Jetson's, has neither a power sensor nor an energy counter."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, starts: bool = True, gpus: int = 2):
        self.starts, self.gpus, self.shut_down = starts, gpus, 0

    def nvmlInit(self) -> None:
        if not self.starts:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        self.shut_down += 1

    def nvmlDeviceGetCount(self) -> int:
        if self.gpus < 0:
            raise self.NVMLError("Insufficient Permissions")
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return self._only_first(gpu, 71_250)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        return self._only_first(gpu, 123_456)

    def nvmlDeviceGetClockInfo(self, gpu: int, kind: int) -> int:
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        return 41

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: int) -> int:
        return self._only_first(gpu, 0x24)

    def _only_first(self, gpu: int, value: int) -> int:
        if gpu:
            raise self.NVMLError("Not Supported")
        return value


def test_gpus_tell_what_they_have() -> None:
    double = NvmlDouble()
    found = nvml(double)
    assert not isinstance(found, str)
    read: Any = found.read()
    assert (read["power_w", "gpu0"], read["energy_j", "gpu0"], read["temperature_c", "gpu0"]) == (71.25, 123.456, 41)
    assert (read["clock_mhz", "gpu0"], read["clock_mhz", "gpu0 memory"]) == (1980, 3201)
    assert {name for (quantity, name), value in read.items() if quantity == "throttled" and value} == {"gpu0, power cap", "gpu0, heat"}
    assert {quantity for quantity, name in read if name.startswith("gpu1")} == {"clock_mhz", "temperature_c"}
    found.close()
    found.close()
    assert double.shut_down == 1


@pytest.mark.parametrize(
    ("double", "said", "shut_down"),
    [
        (NvmlDouble(starts=False), "NVML does not start: Driver Not Loaded", 0),
        (NvmlDouble(gpus=0), "NVML sees no GPU", 1),
        (NvmlDouble(gpus=-1), "NVML cannot list its GPUs: Insufficient Permissions", 1),
    ],
)
def test_a_machine_without_a_gpu_or_driver(double: NvmlDouble, said: str, shut_down: int) -> None:
    assert nvml(double) == said
    assert double.shut_down == shut_down


def test_every_name_that_is_asked_exists_in_the_real_package() -> None:
    pynvml = pytest.importorskip("pynvml")
    assert all(hasattr(pynvml, name) for name in vars(NvmlDouble) if name.startswith(("nvml", "NVML")))
    assert isinstance(nvml(), str) or nvml() is not None
