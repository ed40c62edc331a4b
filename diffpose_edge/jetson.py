"""What a Jetson says of itself in its files: the board, its software, its power mode, and whether its clocks are locked.

No command is run, nothing needs root, and only the standard library is used. Formats and tables come from:

- ``/etc/nv_tegra_release``, ``nvidia-jetpack``: https://docs.nvidia.com/jetson/orin-nano-devkit/user-guide/latest/setup_jetpack.html
- L4T and JetPack: https://developer.nvidia.com/embedded/jetpack-archive, https://docs.nvidia.com/jetson/archives/
- ``nvpmodel.conf``: https://github.com/NVIDIA/skills/blob/main/skills/jetson-customize-nvpmodel/SKILL.md
- the clocks' files: "Frequency Management" in the Jetson Linux Developer Guide, and the kernel's sysfs-class-devfreq
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# JetPack of an L4T release. An update by apt may raise the last number of L4T: hence a row of its own where that is known.
_JETPACK = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
# What can be said of any other release: the series alone. A guessed second number would be wrong about somebody's board.
_SERIES = {"35": "5", "36": "6", "38": "7", "39": "7"}
# The CUDA that JetPack's driver belongs to, by JetPack's first number.
_CUDA = {"5": 11, "6": 12, "7": 13}

_RELEASE = re.compile(r"^# R(\d{1,3}) \(release\), REVISION: (\d{1,3})\.(\d{1,3})\b")
_STATUS = re.compile(r"^pmode:(\d{1,4})\b")
_MODE = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=([^\s>]+)\s*>", re.MULTILINE)
_WATTS = re.compile(r"(\d{1,4})W")
# Orin's GPU is 17000000.gpu (17000000.ga10b with L4T 35). Thor has gpu-gpc-0, which computes, and gpu-nvd-0, the video engines'.
_GPU_CLOCKS = ("17000000.*", "*gpu*")


@dataclass(frozen=True)
class JetsonInfo:
    """A Jetson, as its files describe it. None: the file is missing, cannot be read, or says something else than expected.

    ``l4t`` is the release of Jetson Linux, such as 36.4.3; ``jetpack`` what is installed of JetPack, or what the L4T release
    belongs to: 6.2, or 6 where the release is not a known one. ``power_mode`` is nvpmodel's number and ``power_name`` its
    name; ``fastest_mode`` the number and name of the mode with the highest limits, which is not the same number on all boards.
    ``cpu_locked`` and ``gpu_locked``: whether the lowest frequency equals the highest, which is what jetson_clocks does.
    """

    model: str | None
    l4t: str | None
    jetpack: str | None
    power_mode: int | None
    power_name: str | None
    fastest_mode: tuple[int, str] | None
    cpu_locked: bool | None
    gpu_locked: bool | None

    @property
    def cuda(self) -> int | None:
        """The first number of the CUDA that this JetPack has: 11, 12 or 13."""
        return None if self.jetpack is None else _CUDA.get(self.jetpack.split(".")[0])


def jetson_info(root: str | Path = "/") -> JetsonInfo | None:
    """Describe the Jetson whose files lie under ``root``; None when it is not a Jetson. Raises nothing.

    It is a Jetson when the device tree names one or Jetson Linux left its release file. A container shows neither unless it is
    given them.
    """
    root = Path(root)
    model = _model(root)
    l4t = _l4t(root)
    if l4t is None and (model is None or "jetson" not in model.lower()):
        return None
    mode, modes = _power_mode(root), _power_modes(root)
    return JetsonInfo(
        model=model,
        l4t=l4t,
        jetpack=_installed_jetpack(root) or _jetpack_of(l4t),
        power_mode=mode,
        power_name=None if mode is None else modes.get(mode),
        fastest_mode=_fastest(modes),
        cpu_locked=_locked(_cpu_limits(root)),
        gpu_locked=_locked(_gpu_limits(root)),
    )


def _read(path: Path) -> str | None:
    """Return a file's text, or None. Bytes that are no text, in a package description say, spoil nothing but their own line."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None


def _model(root: Path) -> str | None:
    text = _read(root / "proc/device-tree/model")
    # A string in a device tree ends with a NUL.
    name = "" if text is None else text.split("\0")[0].strip()
    return name if name and name.isprintable() and "\N{REPLACEMENT CHARACTER}" not in name else None


def _l4t(root: Path) -> str | None:
    found = _RELEASE.match(_read(root / "etc/nv_tegra_release") or "")
    return ".".join(found.groups()) if found else None


def _jetpack_of(l4t: str | None) -> str | None:
    return None if l4t is None else _JETPACK.get(l4t) or _SERIES.get(l4t.split(".")[0])


def _installed_jetpack(root: Path) -> str | None:
    """Return the version of the package nvidia-jetpack, such as 6.2.1 for 6.2.1+b38; None when it is not installed."""
    for paragraph in (_read(root / "var/lib/dpkg/status") or "").split("\n\n"):
        if re.search(r"^Package: nvidia-jetpack$", paragraph, re.MULTILINE):
            installed = re.search(r"^Status: \S+ ok installed$", paragraph, re.MULTILINE)
            version = re.search(r"^Version: (\d{1,3}(?:\.\d{1,3})*)(?:[+-]\S*)?$", paragraph, re.MULTILINE)
            return version.group(1) if installed and version else None
    return None


def _power_mode(root: Path) -> int | None:
    found = _STATUS.match(_read(root / "var/lib/nvpmodel/status") or "")
    return int(found.group(1)) if found else None


def _power_modes(root: Path) -> dict[int, str]:
    return {int(number): name for number, name in _MODE.findall(_read(root / "etc/nvpmodel.conf") or "")}


def _fastest(modes: dict[int, str]) -> tuple[int, str] | None:
    """Return the mode without limits (MAXN), else the one with the most watts; None when no name tells."""
    unlimited = [(number, name) for number, name in modes.items() if name.upper().startswith("MAXN")]
    if unlimited:
        return unlimited[0]
    limited = [(int(watts.group(1)), number) for number, name in modes.items() if (watts := _WATTS.search(name))]
    if not limited:
        return None
    # Of several modes with as many watts the first: the others have fewer cores or are for single purposes.
    best = max(limited, key=lambda pair: (pair[0], -pair[1]))[1]
    return best, modes[best]


def _cpu_limits(root: Path) -> Iterator[tuple[Path, Path]]:
    # A core that is switched off has no cpufreq folder.
    for folder in _folders(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        yield folder / "cpufreq/scaling_min_freq", folder / "cpufreq/scaling_max_freq"


def _gpu_limits(root: Path) -> Iterator[tuple[Path, Path]]:
    clocks = {folder for pattern in _GPU_CLOCKS for folder in _folders(root / "sys/class/devfreq", pattern)}
    for folder in sorted(clocks):
        if "-nvd-" not in folder.name:
            yield folder / "min_freq", folder / "max_freq"


def _folders(parent: Path, pattern: str) -> list[Path]:
    try:
        return sorted(parent.glob(pattern))
    except OSError:
        return []


def _locked(limits: Iterator[tuple[Path, Path]]) -> bool | None:
    """Tell whether all of the clocks that can be read are locked; None when there are none."""
    equal = []
    for files in limits:
        low, high = ((_read(file) or "").strip() for file in files)
        if low.isdecimal() and high.isdecimal():
            equal.append(low == high)
    return all(equal) if equal else None
