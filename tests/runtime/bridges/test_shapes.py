"""Ellipsoids that enclose what they say, and quaternions that turn as their matrices do."""

from __future__ import annotations

import numpy as np

from diffpose_edge.runtime.bridges.shapes import LEVEL, bone_ends, ellipsoids, quaternions
from diffpose_edge.skeleton import BONES
from diffpose_edge.tolerances import ELLIPSOID_SHARE, QUATERNION_ABS

from .people import body_of


def turned(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """v (n, 3) turned by one unit quaternion: v + 2 w (u x v) + 2 u x (u x v)."""
    u, w = q[:3], q[3]
    return v + 2.0 * w * np.cross(u, v) + 2.0 * np.cross(u, np.cross(u, v))


def test_quaternions_turn_as_their_matrices() -> None:
    rng = np.random.default_rng(0)
    rotations = np.linalg.qr(rng.normal(size=(50, 3, 3)))[0]
    rotations[:, :, 0] *= np.linalg.det(rotations)[:, None]
    # Half turns, where w is 0, and no turn at all.
    rotations = np.concatenate([rotations, [np.eye(3), np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1])]])
    vectors = rng.normal(size=(5, 3))
    for rotation, q in zip(rotations, quaternions(rotations), strict=True):
        assert abs(np.linalg.norm(q) - 1) <= QUATERNION_ABS
        assert q[3] >= 0
        np.testing.assert_allclose(turned(q, vectors), vectors @ rotation.T, rtol=0, atol=QUATERNION_ABS)


def test_an_ellipsoid_encloses_its_share_of_the_draws() -> None:
    body = body_of(1)
    rng = np.random.default_rng(2)
    drawn = ellipsoids(body)
    assert [each.joint for each in drawn] == list(range(1, 17)), "the hip errs by nothing"
    for each in drawn:
        points = rng.multivariate_normal(body.joints[each.joint], body.covariance[each.joint], 4000)
        back = turned(each.orientation * (-1, -1, -1, 1), points - each.centre)
        within = (((2 * back / each.diameters) ** 2).sum(axis=1) <= 1).mean()
        assert abs(within - LEVEL) <= ELLIPSOID_SHARE


def test_what_is_not_known_has_no_ellipsoid() -> None:
    covariance = body_of(1).covariance.copy()
    covariance[4] = np.nan
    assert 4 not in [each.joint for each in ellipsoids(body_of(1, covariance=covariance))]
    assert ellipsoids(body_of(1, covariance=np.full((17, 3, 3), np.nan, np.float32))) == []


def test_bones_and_ellipsoids_stand_where_the_root_is() -> None:
    root = np.array([0.5, 1.0, 4.0], np.float32)
    here, there = body_of(3), body_of(3, root=root)
    np.testing.assert_array_equal(bone_ends(there), (here.joints + root)[np.array(BONES).ravel()])
    np.testing.assert_allclose(ellipsoids(there)[0].centre, (here.joints + root)[1])
