"""Mixtures of joints: checked, and made from keypoints, parameters and heatmaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError
from diffpose_edge.heatmaps import EXTENT, render_heatmaps
from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.mixtures import (
    Mixture,
    checked_mixture,
    draw,
    mixture_from_heatmaps,
    mixture_from_keypoints,
    mixture_from_parameters,
    moments,
)

Array = NDArray[np.float64]
SIZE = (640.0, 480.0)
SIGMA = 2.0
# A crop of 192 x 256 pixels at (100, 50), heatmap 48 x 64: the first pixel's centre is at half a heatmap pixel.
AFFINE = np.array([[4.0, 0.0, 101.5], [0.0, 4.0, 51.5]])


def _parts(B: int = 2, M: int = 5, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 1, (B, 17, M))
    root = 0.1 * rng.normal(size=(B, 17, M, 2, 2))
    return {
        "weight": weight / weight.sum(axis=-1, keepdims=True),
        "mean": rng.uniform(-0.9, 0.9, (B, 17, M, 2)),
        "covariance": root @ np.swapaxes(root, -1, -2),
    }


def _mixture(B: int = 2, M: int = 5, seed: int = 0) -> Mixture:
    return checked_mixture(**_parts(B, M, seed))


def _heatmaps(B: int = 2, K: int = 2, seed: int = 0, size: tuple[int, int] = (64, 48)) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(7, [size[1] - 8, size[0] - 8], (B, 17, K, 2))
    return render_heatmaps(centres, rng.uniform(0.2, 0.5, (B, 17, K)), SIGMA, size)


def _with(part: str, value: Any, at: tuple[int, ...]) -> dict[str, Array]:
    parts = _parts()
    parts[part][at] = value
    return parts


def test_a_good_mixture_comes_back_with_full_confidence() -> None:
    parts = _parts()
    m = checked_mixture(**parts)
    assert len(m) == 2
    for name, value in parts.items():
        np.testing.assert_allclose(getattr(m, name), value, rtol=1e-12)
    np.testing.assert_array_equal(m.confidence, np.ones((2, 17), np.float32))


def test_weights_of_half_precision_are_accepted_and_made_to_sum_to_one() -> None:
    parts = _parts()
    m = checked_mixture(parts["weight"].astype(np.float16), parts["mean"], parts["covariance"].astype(np.float32))
    assert np.abs(m.weight.sum(axis=-1) - 1).max() < 1e-15
    np.testing.assert_array_equal(m.covariance, np.swapaxes(m.covariance, -1, -2))


def test_axes_before_the_joints_may_be_any() -> None:
    parts = {name: np.stack([value] * 3) for name, value in _parts().items()}
    m = checked_mixture(**parts)
    assert m.weight.shape == (3, 2, 17, 5)
    assert [a.shape for a in moments(m)] == [(3, 2, 17, 2), (3, 2, 17, 2, 2)]
    parts["weight"][2, 1, 16] = 1
    with pytest.raises(KeypointError, match=r"person 2, 1, joint 16 \(right_wrist\)"):
        checked_mixture(**parts)


BAD = {
    "weight below zero": (_with("weight", -0.1, (1, 3, 0)), r"person 1, joint 3 \(right_foot\) has weights .*within 0..1"),
    "weight nan": (_with("weight", np.nan, (1, 3, 0)), r"joint 3 \(right_foot\) has weights \[nan"),
    "weights that sum to two": (_with("weight", 0.4, (0, 9)), r"person 0, joint 9 \(neck\) has weights that sum to 2: expected 1"),
    "mean nan": (_with("mean", np.nan, (1, 0, 2, 1)), r"person 1, joint 0 \(hip\) has means .*finite"),
    "mean in pixels": (_with("mean", 320.0, (1, 0, 2, 1)), r"\(hip\) has means that reach 320.*Are they pixels"),
    "covariance inf": (_with("covariance", np.inf, (0, 16, 4, 0, 0)), r"joint 16 \(right_wrist\) has covariances .*finite"),
    "covariance in pixels": (_with("covariance", 225 * np.eye(2), (0, 16, 4)), r"\(right_wrist\) .*225.*in pixels"),
    "variance below zero": (_with("covariance", -0.01 * np.eye(2), (0, 16, 4)), r"\(right_wrist\) .*positive semi-definite"),
    "one variance below zero": (_with("covariance", np.diag([0.1, -1e-9]), (0, 16, 4)), "positive semi-definite"),
    "correlation of two": (
        _with("covariance", [[0.1, 0.2], [0.2, 0.1]], (1, 8, 0)),
        r"person 1, joint 8 \(thorax\) .*positive semi-definite",
    ),
    "covariance without variance": (_with("covariance", [[0, 0.2], [0.2, 0.1]], (1, 8, 0)), "positive semi-definite"),
    "asymmetric": (_with("covariance", [[0.1, 0.02], [0.03, 0.1]], (1, 8, 0)), r"\(thorax\) .*symmetric"),
    "16 joints": ({n: v[:, :16] for n, v in _parts().items()}, r"expected weights \(…, 17, M\).*\(2, 16, 5\)"),
    "nobody": ({n: v[:0] for n, v in _parts().items()}, "at least one person"),
    "no components": ({n: v[:, :, :0] for n, v in _parts().items()}, r"\(2, 17, 0\)"),
    "other means": (_parts() | {"mean": _parts()["mean"][:, :, :4]}, r"expected means of shape \(2, 17, 5, 2\)"),
    "other covariances": (_parts() | {"covariance": _parts()["mean"]}, r"expected covariances of shape \(2, 17, 5, 2, 2\)"),
    "words": (_parts() | {"mean": "left"}, "means as an array of numbers"),
    "confidence of two": (_parts() | {"confidence": np.full((2, 17), 2.0)}, r"person 0, joint 0 \(hip\) has confidence 2.0"),
    "confidence for each component": (_parts() | {"confidence": np.ones((2, 17, 5))}, r"confidence of shape \(2, 17\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_mixtures_are_refused_and_person_and_joint_named(name: str) -> None:
    bad, said = BAD[name]
    with pytest.raises(KeypointError, match=said):
        checked_mixture(**bad)


def test_a_joint_that_was_not_seen_is_not_looked_at_and_stands_for_nothing() -> None:
    parts = _parts()
    confidence = np.ones((2, 17))
    confidence[1, 4] = 0
    for value in parts.values():
        value[1, 4] = np.nan
    m = checked_mixture(**parts, confidence=confidence)
    np.testing.assert_array_equal(m.weight[1, 4], np.full(5, 0.2))
    assert (m.mean[1, 4] == 0).all()
    assert (m.covariance[1, 4] == 0).all()
    assert np.isfinite(draw(m, 3, np.random.default_rng(0))[1]).all()


def test_keypoints_become_one_gaussian_each() -> None:
    parts = _parts(M=1)
    confidence = np.full((2, 17), 0.5)
    m = mixture_from_keypoints(parts["mean"][:, :, 0], parts["covariance"][:, :, 0], confidence)
    np.testing.assert_array_equal(m.weight, np.ones((2, 17, 1)))
    np.testing.assert_array_equal(m.mean, parts["mean"])
    np.testing.assert_allclose(m.covariance, parts["covariance"], rtol=1e-12)
    np.testing.assert_array_equal(m.confidence, confidence)
    with pytest.raises(KeypointError, match=r"expected uv \(B, 17, 2\) and covariance"):
        mixture_from_keypoints(parts["mean"], parts["covariance"])


def test_parameters_become_gaussians_with_independent_u_and_v() -> None:
    parts = _parts()
    scale = np.random.default_rng(1).uniform(0, 0.1, parts["mean"].shape)
    m = mixture_from_parameters(parts["weight"], parts["mean"], scale)
    np.testing.assert_allclose(m.covariance[1, 2, 3], np.diag(scale[1, 2, 3] ** 2), rtol=1e-12)
    for value in (-0.01, np.nan, np.inf):
        scale[1, 2, 3, 0] = value
        with pytest.raises(KeypointError, match=r"person 1, joint 2 \(right_knee\) has scales"):
            mixture_from_parameters(parts["weight"], parts["mean"], scale)
    with pytest.raises(KeypointError, match=r"scales \(B, 17, M, 2\)"):
        mixture_from_parameters(parts["weight"], parts["mean"], scale[..., 0])


def test_a_rendered_joint_comes_back_where_it_was_in_the_image() -> None:
    rng = np.random.default_rng(2)
    centres = rng.uniform(8, [39, 55], (2, 17, 1, 2))
    m = mixture_from_heatmaps(render_heatmaps(centres, rng.uniform(0.3, 0.9, (2, 17, 1)), SIGMA, (64, 48)), AFFINE, SIZE)
    mean, covariance = moments(m)
    heatmap_pixel = 2 * 4 / SIZE[0]
    wanted = normalise_pixels(4 * centres[:, :, 0] + AFFINE[:, 2], SIZE)
    assert np.abs(mean - wanted).max() / heatmap_pixel < 0.05
    np.testing.assert_allclose(covariance / heatmap_pixel**2, np.broadcast_to((SIGMA**2 + EXTENT) * np.eye(2), (2, 17, 2, 2)), atol=0.01)


def test_each_person_may_have_an_affine_map_of_their_own() -> None:
    h = _heatmaps()
    turned = np.array([[0.0, -3.0, 300.0], [2.0, 0.5, 20.0]])
    both = mixture_from_heatmaps(h, np.stack([AFFINE, turned]), SIZE)
    for b, affine in enumerate((AFFINE, turned)):
        alone = mixture_from_heatmaps(h[b : b + 1], affine, SIZE)
        np.testing.assert_allclose(both.mean[b], alone.mean[0], atol=1e-9)
        np.testing.assert_allclose(both.covariance[b], alone.covariance[0], atol=1e-9)


def test_the_confidence_is_the_peak_within_0_and_1() -> None:
    h = np.zeros((1, 17, 8, 6), np.float32)
    h[0, :, 3, 2] = np.linspace(0.1, 1.7, 17)
    np.testing.assert_array_equal(mixture_from_heatmaps(h, AFFINE, SIZE).confidence[0], np.minimum(h[0, :, 3, 2], 1))


@pytest.mark.parametrize("value", [0.0, -0.2, np.nan, np.inf])
def test_a_heatmap_that_says_nothing_is_refused_and_person_and_joint_named(value: float) -> None:
    h = _heatmaps()
    if np.isfinite(value):
        h[1, 12] = value
    else:
        h[1, 12, 60, 40] = value
    with pytest.raises(KeypointError, match=r"person 1, joint 12 \(left_elbow\) has a heatmap (without a positive|with NaN or inf)"):
        mixture_from_heatmaps(h, AFFINE, SIZE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heatmaps": np.ones((17, 8, 6))}, r"\(B, 17, H, W\).*\(17, 8, 6\)"),
        ({"heatmaps": np.ones((1, 16, 8, 6))}, r"\(1, 16, 8, 6\)"),
        ({"heatmaps": np.ones((0, 17, 8, 6))}, "at least one person"),
        ({"heatmaps": "heatmaps.npy"}, "array of numbers"),
        ({"affine": np.eye(3)}, r"affine of shape \(2, 3\)"),
        ({"affine": np.zeros((3, 2, 3))}, r"or \(1, 2, 3\)"),
        ({"affine": np.full((2, 3), np.nan)}, "affine map of person 0"),
        ({"affine": [[1, 1, 0], [2, 2, 0]]}, "affine map of person 0"),
        ({"image_size": (0, 480)}, "image_size"),
        ({"components": 0}, "components"),
        ({"components": 2.0}, "components"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"heatmaps": np.ones((1, 17, 8, 6)), "affine": AFFINE, "image_size": SIZE, "components": 2}
    with pytest.raises(DiffPoseEdgeError, match=said):
        mixture_from_heatmaps(**(arguments | change))


@given(
    linear=st.tuples(*[st.floats(-8, 8)] * 4).filter(lambda m: abs(m[0] * m[3] - m[1] * m[2]) > 0.1),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    w=st.floats(300, 4000),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=25)
def test_mixtures_move_and_stretch_with_the_affine_map(linear: tuple[float, ...], shift: tuple[float, float], w: float, seed: int) -> None:
    h = _heatmaps(1, seed=seed, size=(20, 18))
    a, t = np.array(linear).reshape(2, 2), np.array(shift)
    # Heatmap pixels taken for an image's of 200 x 200, and brought back from normalised coordinates.
    unit = mixture_from_heatmaps(h, np.eye(2, 3), (200.0, 200.0), components=3)
    pixels, covariance = (unit.mean + 1) * 100, unit.covariance * 100**2
    moved = mixture_from_heatmaps(h, np.concatenate([a, t[:, None]], axis=1), (w, 480.0), components=3)
    np.testing.assert_allclose(moved.weight, unit.weight, rtol=1e-12)
    np.testing.assert_allclose(moved.mean, (pixels @ a.T + t) * 2 / w - (1, 480.0 / w), atol=1e-9)
    np.testing.assert_allclose(moved.covariance, a @ covariance @ a.T * (2 / w) ** 2, rtol=1e-7, atol=1e-9)
