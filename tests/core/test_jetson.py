"""What is read off a Jetson's files: trees planted as three boards have them, then with files missing, cut off or wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from diffpose_edge.jetson import JetsonInfo, jetson_info

ORIN_MODES = """#
# < POWER_MODEL ID=id_num NAME=mode_name >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 612000000
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >

< PM_CONFIG DEFAULT=0 >
"""
# nvidia-jetpack-runtime stands before the package that counts, and a paragraph without a version after it.
PACKAGES = """Package: nvidia-jetpack-runtime
Status: install ok installed
Version: 6.1+b123
Depends: nvidia-jetpack

Package: nvidia-jetpack
Status: install ok installed
Priority: standard
Maintainer: NVIDIA Corporation
Architecture: arm64
Source: nvidia-jetpack (6.2.1)
Version: 6.2.1+b38
Description: NVIDIA Jetpack Meta Package
 Several lines.

Package: zlib1g
Status: deinstall ok config-files
"""
ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "var/lib/dpkg/status": PACKAGES,
    "var/lib/nvpmodel/status": "pmode:0000 fmode:fanNull",
    "etc/nvpmodel.conf": ORIN_MODES,
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1510400\n",
    "sys/devices/system/cpu/cpufreq/ignored": "a folder that is no core",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "sys/class/devfreq/15340000.vic/min_freq": "1\n",
    "sys/class/devfreq/15340000.vic/max_freq": "1\n",
}
THOR = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64\n# KERNEL_VARIANT: oot\n",
    "var/lib/nvpmodel/status": "pmode:0000\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< PM_CONFIG DEFAULT=1 >\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "2601000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2601000\n",
    "sys/devices/system/cpu/cpu13/cpufreq/scaling_min_freq": "2601000\n",
    "sys/devices/system/cpu/cpu13/cpufreq/scaling_max_freq": "2601000\n",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/class/devfreq/gpu-nvd-0/min_freq": "315000000\n",
    "sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
}
# The file that each field is read from, alone.
SOURCES = {
    "model": "proc/device-tree/model",
    "l4t": "etc/nv_tegra_release",
    "power_mode": "var/lib/nvpmodel/status",
    "fastest_mode": "etc/nvpmodel.conf",
    "cpu_locked": "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq",
    "gpu_locked": "sys/class/devfreq/17000000.gpu/max_freq",
}


def planted(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def info_of(root: Path, files: Mapping[str, str | bytes]) -> JetsonInfo:
    found = jetson_info(planted(root, files))
    assert found is not None
    return found


def test_an_orin_nano_with_jetpack_6(tmp_path: Path) -> None:
    found = info_of(tmp_path, ORIN_NANO)
    assert found == JetsonInfo(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        l4t="36.4.4",
        jetpack="6.2.1",
        power_mode=0,
        power_name="15W",
        fastest_mode=(2, "MAXN_SUPER"),
        cpu_locked=False,
        gpu_locked=False,
    )
    assert found.cuda == 12


def test_a_thor_with_jetpack_7_and_locked_clocks(tmp_path: Path) -> None:
    """The release is not a known one, so that only JetPack's series is told; the video engines' clock does not count."""
    found = info_of(tmp_path, THOR)
    assert (found.model, found.l4t, found.jetpack, found.cuda) == ("NVIDIA Jetson AGX Thor Developer Kit", "38.2.2", "7", 13)
    assert (found.power_mode, found.power_name, found.fastest_mode) == (0, "MAXN", (0, "MAXN"))
    assert (found.cpu_locked, found.gpu_locked) == (True, True)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0", "etc/nvpmodel.conf": ORIN_MODES},
        {"var/lib/dpkg/status": PACKAGES, "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1\n"},
    ],
)
def test_other_machines_are_no_jetsons(tmp_path: Path, files: Mapping[str, str | bytes]) -> None:
    assert jetson_info(planted(tmp_path, files)) is None


def test_a_board_of_another_maker_is_known_by_its_software(tmp_path: Path) -> None:
    found = info_of(tmp_path, {"proc/device-tree/model": "Some Carrier Board\0", "etc/nv_tegra_release": ORIN_NANO["etc/nv_tegra_release"]})
    assert (found.model, found.l4t) == ("Some Carrier Board", "36.4.4")
    assert (found.power_mode, found.fastest_mode, found.cpu_locked, found.gpu_locked) == (None, None, None, None)


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [("R35 (release), REVISION: 3.1", "5.1.1"), ("R36 (release), REVISION: 3.0", "6.0"), ("R36 (release), REVISION: 4.3", "6.2")]
    + [("R38 (release), REVISION: 4.0", "7.1"), ("R39 (release), REVISION: 9.9", "7"), ("R99 (release), REVISION: 1.0", None)],
)
def test_the_release_tells_jetpack(tmp_path: Path, release: str, jetpack: str | None) -> None:
    found = info_of(tmp_path, {"etc/nv_tegra_release": f"# {release}, GCID: 1, BOARD: generic, EABI: aarch64\n"})
    assert found.jetpack == jetpack


@pytest.mark.parametrize(
    ("change", "jetpack"),
    [
        (("Version: 6.2.1+b38", "Version: 5.1.1-b56"), "5.1.1"),
        (("installed\nPriority", "config-files\nPriority"), "6.2.1"),  # removed: what the release says
        (("Version: 6.2.1+b38", "Version: unknown"), "6.2.1"),
        (("Package: nvidia-jetpack\n", "Package: nvidia-jetpack-dev\n"), "6.2.1"),
    ],
)
def test_the_installed_package_goes_before_the_release(tmp_path: Path, change: tuple[str, str], jetpack: str) -> None:
    assert change[0] in PACKAGES
    assert info_of(tmp_path, {**ORIN_NANO, "var/lib/dpkg/status": PACKAGES.replace(*change)}).jetpack == jetpack


@pytest.mark.parametrize(
    ("modes", "fastest"),
    [
        ("< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n", (0, "MAXN")),
        ("< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n", (0, "15W")),
        ("< POWER_MODEL ID=0 NAME=10W >\n< POWER_MODEL ID=1 NAME=40W >\n< POWER_MODEL ID=2 NAME=40W_6CORE >\n", (1, "40W")),
        ("< POWER_MODEL ID=0 NAME=quiet >\n", None),
        ("< POWER_MODEL ID=0 NAME=quiet >\n< POWER_MODEL ID=first NAME=30W >\n", None),
    ],
)
def test_the_fastest_mode_is_found_by_its_name_not_its_number(tmp_path: Path, modes: str, fastest: tuple[int, str] | None) -> None:
    assert info_of(tmp_path, {**ORIN_NANO, "etc/nvpmodel.conf": modes}).fastest_mode == fastest


def test_one_core_that_is_free_means_not_locked(tmp_path: Path) -> None:
    free = {"sys/devices/system/cpu/cpu13/cpufreq/scaling_min_freq": "54000\n"}
    assert info_of(tmp_path, {**THOR, **free}).cpu_locked is False


@pytest.mark.parametrize(("field", "source"), SOURCES.items())
def test_a_missing_file_is_none_and_leaves_the_rest(tmp_path: Path, field: str, source: str) -> None:
    whole = jetson_info(planted(tmp_path / "whole", ORIN_NANO))
    found = info_of(tmp_path / "part", {name: content for name, content in ORIN_NANO.items() if name != source})
    assert getattr(found, field) is None
    lost = {field for field in vars(found) if getattr(found, field) != getattr(whole, field)}
    # A mode's name takes both of nvpmodel's files.
    assert lost - {"power_name"} == {field}


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00\xd8", b"\0"])
@pytest.mark.parametrize(("field", "source"), SOURCES.items())
def test_what_is_no_text_is_none(tmp_path: Path, field: str, source: str, content: bytes) -> None:
    assert getattr(info_of(tmp_path, {**ORIN_NANO, source: content}), field) is None


@pytest.mark.parametrize("content", ["# R36 (release), REVISION: 4", "# R36", "pmode:abcd", "-1\n", "1.5e9\n", "< >", "<\nPOWER_MODEL"])
@pytest.mark.parametrize(("field", "source"), [(field, source) for field, source in SOURCES.items() if field != "model"])
def test_malformed_text_is_none(tmp_path: Path, field: str, source: str, content: str) -> None:
    assert getattr(info_of(tmp_path, {**ORIN_NANO, source: content}), field) is None


@pytest.mark.parametrize("name", ORIN_NANO)
def test_numbers_without_end_raise_nothing(tmp_path: Path, name: str) -> None:
    content = ORIN_NANO[name].translate({ord(digit): "9" * 5000 for digit in "0123456789"})
    jetson_info(planted(tmp_path, {**ORIN_NANO, name: content}))


def test_every_file_malformed_at_once_is_no_jetson(tmp_path: Path) -> None:
    assert jetson_info(planted(tmp_path, dict.fromkeys(ORIN_NANO, b"\xff\x00\xff"))) is None


def test_files_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    """A folder in a file's place fails for root as well, which a file without permissions does not."""
    planted(tmp_path, {"proc/device-tree/model": ORIN_NANO["proc/device-tree/model"]})
    for name in ORIN_NANO:
        if not (tmp_path / name).exists():
            (tmp_path / name).mkdir(parents=True)
    found = jetson_info(tmp_path)
    assert found is not None
    assert {value for field, value in vars(found).items() if field != "model"} == {None}


def test_this_machine_can_be_asked(tmp_path: Path) -> None:
    assert jetson_info() is None or isinstance(jetson_info(), JetsonInfo)
    assert jetson_info(tmp_path / "nowhere") is None


def test_only_the_standard_library_is_imported() -> None:
    program = "import sys, diffpose_edge.jetson; sys.exit(sorted({'numpy', 'ctypes', 'subprocess'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True)
