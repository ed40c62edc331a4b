"""Numbers in a page: what comes out of the text is what went in, to half a quantum."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from diffpose_edge.viewer.packing import LARGEST, NOTHING, Packing, principal_axes, quantum


@pytest.mark.parametrize(
    ("reach", "expected"),
    [(0.0, 1e-4), (3.27, 1e-4), (3.28, 2e-4), (6.6, 5e-4), (20.0, 1e-3), (3000.0, 0.1), (np.nan, 1e-4)],
)
def test_the_quantum_is_the_smallest_that_reaches(reach: float, expected: float) -> None:
    assert quantum([0.0, -reach, np.nan], 1e-4) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.2766, 3.27665, 500.0])
def test_numbers_come_back_to_half_a_quantum_and_nan_as_nan(scale: float) -> None:
    values = np.random.default_rng(0).uniform(-scale, scale, (5, 17, 3))
    values[2], values[3, 0, 0], values[3, 0, 1] = np.nan, scale, -scale
    packing = Packing()
    packing.add_numbers("before", [1.0], 1e-4)
    packing.add_numbers("x", values, 1e-4)
    at = packing.index["x"]
    counted = np.frombuffer(base64.b64decode(packing.base64()), "<i2", count=values.size, offset=at["at"]).reshape(at["shape"])
    assert at["at"] % 4 == 0
    assert np.abs(counted[counted != NOTHING]).max() <= LARGEST
    np.testing.assert_array_equal(counted == NOTHING, np.isnan(values))
    found = np.where(counted == NOTHING, np.nan, counted * at["worth"])
    # A hundredth more than half: what float64 rounds at the border.
    np.testing.assert_allclose(found, values, rtol=0, atol=0.505 * at["worth"])


def test_only_zero_confidence_becomes_zero() -> None:
    packing = Packing()
    packing.add_shares("c", [0.0, 1e-6, 0.5, 1.0])
    assert list(base64.b64decode(packing.base64())) == [0, 1, 128, 255]


def test_every_part_begins_where_its_type_may() -> None:
    packing = Packing()
    packing.add_shares("c", np.ones(3))
    packing.add_whole("n", [70000, -1], 0.5)
    packing.add_numbers("x", np.ones(3), 1.0)
    packing.add_whole("m", [5])
    assert [one["at"] for one in packing.index.values()] == [0, 4, 12, 20]
    content = base64.b64decode(packing.base64())
    assert packing.size == len(content) == 24
    assert np.frombuffer(content, "<i4", count=2, offset=4).tolist() == [70000, -1]
    assert packing.index["n"]["worth"] == 0.5


def test_principal_axes_square_to_the_covariance_and_keep_the_hand() -> None:
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(40, 17, 3, 3)) * 0.05
    covariance = factor @ np.swapaxes(factor, -1, -2)
    covariance[0, 0] = 0
    covariance[1, 1] = np.diag([4.0, 0.0, 0.0])
    covariance[2, 2] = np.nan
    axes = principal_axes(covariance)
    assert np.isnan(axes[2, 2]).all()
    known = np.isfinite(covariance).all(axis=(-2, -1))
    np.testing.assert_allclose(axes[known] @ np.swapaxes(axes[known], -1, -2), covariance[known], atol=1e-12)
    assert (np.linalg.det(axes[known]) >= 0).all()
    gram = np.swapaxes(axes[known], -1, -2) @ axes[known]
    np.testing.assert_allclose(gram * (1 - np.eye(3)), 0, atol=1e-12)
