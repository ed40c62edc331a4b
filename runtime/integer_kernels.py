"""INT8 on the CPU with exact sums, by whichever of ONNX Runtime's kernels has them on this processor.

The fastest kernels of x86 processors without VNNI add pairs of products in 16 bits, which saturates: what they compute is not what the
graph says. ONNX Runtime has slower ones that do not, and takes them, with VNNI too, when it is told to be precise.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}


def exact_integers(options: Any) -> None:
    """Tell an ``onnxruntime.SessionOptions`` to compute INT8 as the graph says: Q/DQ in float, integers without saturation."""
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")


@functools.cache
def has_vnni() -> bool:
    """Tell whether every processor of this machine is known to have VNNI; elsewhere than on Linux it is not known."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return bool(flags) and all(VNNI & each for each in flags)
