"""Where the reverse process starts: the released start, the noised start, and joints that nobody saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.start import MODES, checked_mode, fill_missing, noise_start, released_start
from diffpose_edge.schedule import released_alpha_bar
from diffpose_edge.skeleton import BONES, JOINTS, ROOT, J

Array = NDArray[np.float32]
NEIGHBOURS = {j: [a + b - j for a, b in BONES if j in (a, b)] for j in range(J)}
BETWEEN_TWO = [j for j in range(J) if len(NEIGHBOURS[j]) == 2]
ENDS = [j for j in range(J) if len(NEIGHBOURS[j]) == 1]


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _all_but(*unseen: int, people: int = 1) -> NDArray[np.bool_]:
    observed = np.ones((people, J), np.bool_)
    observed[:, list(unseen)] = False
    return observed


def test_the_released_start_puts_sample_n_of_person_p_in_row_p_n_plus_n() -> None:
    P, N = 3, 4
    uv, xyz, x = _normal(P, J, 2), _normal(P, J, 3), np.full((P * N, J, 5), np.nan, np.float32)
    released_start(uv, xyz, x)
    for p in range(P):
        for n in range(N):
            np.testing.assert_array_equal(x[p * N + n, :, :2], uv[p])
            np.testing.assert_array_equal(x[p * N + n, :, 2:], xyz[p] - xyz[p, ROOT])


def test_the_released_start_has_the_root_at_zero_and_leaves_its_inputs_alone() -> None:
    uv, xyz, x = _normal(2, J, 2), _normal(2, J, 3), np.empty((4, J, 5), np.float32)
    released_start(uv, xyz, x)
    assert (x[:, ROOT, 2:] == 0).all()
    np.testing.assert_array_equal(uv, _normal(2, J, 2))
    np.testing.assert_array_equal(xyz, _normal(2, J, 3))


def test_noise_is_mixed_in_place_by_the_forward_process() -> None:
    a_t = float(released_alpha_bar()[12])
    x, e = _normal(6, J, 5), _normal(6, J, 5, seed=1)
    expected = np.sqrt(a_t) * x.astype(np.float64) + np.sqrt(1.0 - a_t) * e.astype(np.float64)
    noise_start(x, e, a_t)
    # Two factors, two products and a sum, each rounded once: no more than three units of the largest term.
    assert (np.abs(x - expected) <= 3 * np.spacing(np.abs(expected).max().astype(np.float32))).all()


def test_no_noise_level_means_no_change_at_all() -> None:
    x = _normal(2, J, 5)
    noise_start(x, _normal(2, J, 5, seed=1), 1.0)
    np.testing.assert_array_equal(x, _normal(2, J, 5))


@pytest.mark.parametrize("t", [0, 12, 50])
def test_a_noised_start_has_the_mean_and_the_variance_of_the_forward_process(t: int) -> None:
    # The estimates from m samples are normal with deviation sqrt((1 - a) / m) and (1 - a) sqrt(2 / m): five of them bound
    # the largest of 85 with a chance of 1 in 10,000 to miss; the seed is fixed.
    m, a_t = 20_000, float(released_alpha_bar()[t])
    clean = _normal(J, 5, seed=2)
    x = np.broadcast_to(clean, (m, J, 5)).copy()
    noise_start(x, _normal(m, J, 5, seed=3), a_t)
    mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64, ddof=1)
    assert np.abs(mean - np.sqrt(a_t) * clean).max() <= 5 * np.sqrt((1 - a_t) / m)
    assert np.abs(variance - (1 - a_t)).max() <= 5 * (1 - a_t) * np.sqrt(2 / m)


@pytest.mark.parametrize("joint", BETWEEN_TWO, ids=lambda j: JOINTS[j])
def test_a_joint_between_two_seen_ones_lies_at_their_exact_mean(joint: int) -> None:
    uv = _normal(1, J, 2)
    one, other = NEIGHBOURS[joint]
    mean = ((uv[0, one].astype(np.float64) + uv[0, other]) / 2).astype(np.float32)
    np.testing.assert_array_equal(fill_missing(uv, _all_but(joint))[0, joint], mean)


@pytest.mark.parametrize("end", ENDS, ids=lambda j: JOINTS[j])
def test_an_unseen_end_of_a_chain_lies_on_the_last_joint_seen(end: int) -> None:
    uv = _normal(1, J, 2)
    np.testing.assert_array_equal(fill_missing(uv, _all_but(end))[0, end], uv[0, NEIGHBOURS[end][0]])


def test_a_whole_unseen_limb_lies_on_the_joint_that_it_hangs_from() -> None:
    uv = _normal(1, J, 2)
    limb = [JOINTS.index(f"left_{part}") for part in ("shoulder", "elbow", "wrist")]
    filled = fill_missing(uv, _all_but(*limb))
    thorax = uv[0, JOINTS.index("thorax")]
    assert (np.abs(filled[0, limb] - thorax) <= np.spacing(np.abs(thorax))).all()


def test_one_joint_seen_gathers_all_the_others() -> None:
    uv = _normal(1, J, 2)
    filled = fill_missing(uv, _all_but(*range(1, J)))
    assert (np.abs(filled[0] - uv[0, 0]) <= np.spacing(np.abs(uv[0, 0]))).all()


def test_rows_with_nothing_seen_are_zero_and_finite_whatever_they_held() -> None:
    for value in (np.nan, np.inf, 7.0):
        filled = fill_missing(np.full((2, J, 2), value, np.float32), np.zeros((2, J), np.bool_))
        np.testing.assert_array_equal(filled, np.zeros((2, J, 2)))


@given(st.lists(st.booleans(), min_size=J, max_size=J).filter(any), st.sampled_from([np.nan, np.inf, -1e30]))
@settings(deadline=None, max_examples=60)
def test_seen_joints_are_untouched_and_unseen_ones_are_in_balance_with_their_neighbours(seen: list[bool], junk: float) -> None:
    observed = np.array([seen, [True] * J])
    given_uv = _normal(2, J, 2)
    uv = np.where(observed[..., None], given_uv, np.float32(junk)).astype(np.float32)
    before = uv.copy()
    filled = fill_missing(uv, observed)
    np.testing.assert_array_equal(uv, before)
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[observed], given_uv[observed])
    # The least sum of squared bone lengths: every unseen joint is the mean of its neighbours.
    for j in np.flatnonzero(~observed[0]):
        mean = filled[0, NEIGHBOURS[j]].astype(np.float64).mean(axis=0)
        assert np.abs(filled[0, j] - mean).max() <= np.spacing(np.abs(given_uv).max())


def test_the_modes_are_checked_by_name() -> None:
    assert [checked_mode(mode) for modes in MODES.values() for mode in modes] == ["released", "noised", "distribution"]
    assert [checked_mode(None, kind) for kind in MODES] == ["released", "distribution"]
    assert checked_mode(None) is None
    with pytest.raises(DiffPoseEdgeError, match="out of released, noised, distribution, got 'Released'"):
        checked_mode("Released")
