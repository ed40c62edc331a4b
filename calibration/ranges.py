"""How large an activation may get before INT8 clips it: four ways to choose the range from a sample.

Min-max clips nothing. Percentile and entropy are ONNX Runtime's own calibrators. ``mse`` takes the range with which the
matmul's result errs least: rounding and clipping both count, and as much as the weights make of them.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.export.int8 import INT8_MAX, on_fp16_grid

Array = NDArray[Any]
METHODS = ("minmax", "percentile", "entropy", "mse")
PERCENTILE = 99.999
TINY = float(np.finfo(np.float32).tiny)
# The shares of the largest magnitude among which "mse" looks.
SHARES = np.linspace(0.4, 1.0, 13)


def checked_method(method: str) -> str:
    """Return ``method``, or raise DiffPoseEdgeError when it is not one of METHODS."""
    if method not in METHODS:
        raise DiffPoseEdgeError(f"expected a calibration method out of {', '.join(METHODS)}, got {method!r}")
    return method


def rounded(x: Array, scale: float | Array) -> Array:
    """Return x as 8 bits hold it: to the nearest multiple of ``scale``, at most 127 of them."""
    return np.clip(np.rint(x / scale), -INT8_MAX, INT8_MAX) * scale


def scale_of(method: str, rows: Array, amax: float, weight: Array, rounded_weight: Array) -> float:
    """Return the activation's scale.

    rows (n, c_in) are a sample of it and ``amax`` the largest magnitude that was ever seen; weight (c_in, c_out), exact and
    in 8 bits, belongs to the matmul that it enters.
    """
    largest = max(amax, TINY)
    if method == "minmax":
        return float(on_fp16_grid(largest / INT8_MAX))
    if method == "mse":
        exact = rows @ weight
        scales = [float(on_fp16_grid(largest * share / INT8_MAX)) for share in SHARES]
        errors = [float(np.square(rounded(rows, scale) @ rounded_weight - exact).mean()) for scale in scales]
        return scales[int(np.argmin(errors))]
    return float(on_fp16_grid(_by_onnxruntime(method, rows) / INT8_MAX))


def _by_onnxruntime(method: str, rows: Array) -> float:
    from onnxruntime.quantization.calibrate import HistogramCollector

    bins = 2048 if method == "percentile" else 1024
    collector = HistogramCollector(method, True, bins, 128, PERCENTILE, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": rows.astype(np.float32)})
        low, high, *_ = collector.compute_collection_result()["x"]
    return max(abs(float(low)), abs(float(high)), TINY)
