"""Smoothing (SmoothQuant, Xiao et al., arXiv 2211.10438): divide an activation's channels, multiply the weight's rows.

s_j = max|x_j|^alpha / max|W_j|^(1 - alpha), here rounded to a power of two, so that it rounds nothing in any precision. alpha
is chosen for each matmul by the squared error of its result. Where that gains little, nothing is moved: a sample of the
activation tells small gains badly, and on other poses they were losses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.calibration.ranges import rounded
from diffpose_edge.export.int8 import INT8_MAX, on_fp16_grid, quantised_weight

Array = NDArray[Any]
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
# A channel is moved by a factor of 256 at most: FP16 has to hold both sides.
MOST = 8
# Smoothing is taken where it leaves less than this of the squared error. On held-out clips, both shipped pairs, K = 5 and 50, the
# step in INT8 added 0.62 to 1.39 mm with it; 0.77 to 1.57 mm when every gain was taken, 0.59 to 1.64 mm without smoothing.
WORTHWHILE = 0.6


def exponents(amax: Array, weight: Array, alpha: float) -> tuple[int, ...]:
    """Return log2 of s_j for channels of largest magnitude ``amax`` (c_in,) that enter ``weight`` (c_in, c_out); median zero."""
    tiny = 1e-9
    wanted = alpha * np.log2(amax + tiny) - (1.0 - alpha) * np.log2(np.abs(weight).max(axis=1) + tiny)
    return tuple(int(e) for e in np.clip(np.rint(wanted - np.median(wanted)), -MOST, MOST))


def smoothing_of(rows: Array, amax: Array, weight: Array) -> tuple[int, ...]:
    """Return the exponents with which 8 bits err least, out of ALPHAS, or zeros where that is not worthwhile; ranges are min-max.

    rows (n, c_in) are a sample of the activation, amax (c_in,) its channels' largest magnitudes, weight (c_in, c_out).
    """
    exact = rows @ weight
    candidates = [(0,) * len(weight), *dict.fromkeys(exponents(amax, weight, alpha) for alpha in ALPHAS)]
    errors = []
    for candidate in candidates:
        factor = 2.0 ** np.array(candidate, np.float64)
        integers, steps = quantised_weight(weight, candidate)
        scale = float(on_fp16_grid((amax / factor).max() / INT8_MAX))
        errors.append(float(np.square(rounded(rows / factor, scale) @ (integers * steps.astype(np.float64)) - exact).mean()))
    best = int(np.argmin(errors))
    return candidates[best] if errors[best] < WORTHWHILE * errors[0] else candidates[0]
