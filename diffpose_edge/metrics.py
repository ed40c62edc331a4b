"""How far estimated poses lie from the truth: MPJPE, its aligned forms, its change over time, and PCK.

Poses are (…, 17, 3) in metres, relative to the hip; results are in millimetres, or in percent for PCK and AUC. A pose
that is NaN makes the result NaN. It is left out only where the caller says so: ``valid`` (…), boolean, is True for the
poses that count. Where none counts the result is NaN. Every function raises ValueError for shapes that do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.skeleton import J
from diffpose_edge.tolerances import MILLIMETRES

Array = NDArray[np.float64]

# The 14 joints that MPI-INF-3DHP evaluates (Mehta et al., 3DV 2017): head top, neck, shoulders, elbows, wrists, hips,
# knees, ankles; `mpii_get_pck_auc_joint_groups.m` of its test set's tools, without pelvis, spine and head centre. Its
# head top is Human3.6M's head (10), and its neck, which lies between the shoulders, Human3.6M's thorax (8).
JOINTS_3DHP = (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16)
PCK_MM = 150.0
AUC_MM = tuple(float(threshold) for threshold in range(0, 151, 5))


def checked_poses(prediction: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    """Return both as float64, (…, 17, 3). Raises ValueError when their shapes differ or are no poses."""
    p, t = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or p.shape[-2:] != (J, 3):
        raise ValueError(f"expected prediction and truth of one shape (…, {J}, 3), got {p.shape} and {t.shape}")
    return p, t


def counted(values: Array, valid: ArrayLike | None) -> Array:
    """Return the rows of ``values`` (…, m), one for each pose, that count: (n, m). All of them when ``valid`` is None."""
    if valid is None:
        return values.reshape(-1, values.shape[-1])
    mask = np.asarray(valid)
    if mask.dtype != np.bool_ or mask.shape != values.shape[:-1]:
        raise ValueError(
            f"expected valid as booleans of shape {values.shape[:-1]}, one for each pose, got {mask.dtype} of shape {mask.shape}"
        )
    return values[mask]


def mean_of(values: Array) -> float:
    """Return the mean over everything; NaN for nothing at all, and without a warning."""
    return float(values.mean()) if values.size else float("nan")


def joint_errors(prediction: ArrayLike, truth: ArrayLike) -> Array:
    """Return |prediction_j - truth_j| for each joint, (…, 17), millimetres."""
    p, t = checked_poses(prediction, truth)
    return np.linalg.norm(p - t, axis=-1) * MILLIMETRES


def rescaled(prediction: ArrayLike, truth: ArrayLike) -> Array:
    """Return each pose multiplied by the one number that brings it closest to the truth: s = sum(p · t) / sum(p · p).

    It is negative where prediction and truth point apart. A prediction that is zero throughout stays zero.

    Source: Rhodin et al., CVPR 2018, as in VideoPose3D's ``n_mpjpe``.
    """
    p, t = checked_poses(prediction, truth)
    return _ratio((p * t).sum(axis=(-2, -1)), (p * p).sum(axis=(-2, -1)))[..., None, None] * p


def procrustes(prediction: ArrayLike, truth: ArrayLike) -> Array:
    """Return each pose moved onto the truth by the similarity a = s p R + o that minimises sum |a_j - t_j|².

    R is a rotation: a mirrored pose stays mirrored. Poses without extent are in order: a prediction that is one point
    is placed on the truth's centroid, a truth that is one point is reached exactly. Where several rotations are best (the
    joints on a line) one of them is taken; the error is the same for all. NaN for a pose that is not finite.

    Source: Gower 1975; the sign that excludes reflections, Umeyama 1991. "Protocol 2" on Human3.6M.
    """
    p, t = checked_poses(prediction, truth)
    whole = np.isfinite(p).all(axis=(-2, -1), keepdims=True) & np.isfinite(t).all(axis=(-2, -1), keepdims=True)
    # LAPACK raises on NaN, and one blank frame must not stop the others.
    p, t = np.where(whole, p, 0.0), np.where(whole, t, 0.0)
    p_mean, t_mean = p.mean(axis=-2, keepdims=True), t.mean(axis=-2, keepdims=True)
    p_0, t_0 = p - p_mean, t - t_mean
    u, s, vt = np.linalg.svd(np.swapaxes(p_0, -1, -2) @ t_0)
    sign = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    u[..., -1] *= sign[..., None]
    s[..., -1] *= sign
    scale = _ratio(s.sum(axis=-1), (p_0 * p_0).sum(axis=(-2, -1)))
    aligned = scale[..., None, None] * (p_0 @ (u @ vt)) + t_mean
    return np.where(whole, aligned, np.nan)


def _ratio(a: Array, b: Array) -> Array:
    """Return a / b, and zero where b is zero."""
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def mpjpe(prediction: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Return the mean per-joint position error: the mean of |p_j - t_j| over joints and poses, millimetres.

    All 17 joints count, the hip (always zero) too, as in VideoPose3D. "Protocol 1" (Ionescu et al., PAMI 2014).
    """
    return mean_of(counted(joint_errors(prediction, truth), valid))


def n_mpjpe(prediction: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Return the MPJPE after the best scale for each pose (see :func:`rescaled`), millimetres."""
    return mean_of(counted(joint_errors(rescaled(prediction, truth), truth), valid))


def p_mpjpe(prediction: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Return the MPJPE after the best similarity for each pose (see :func:`procrustes`), millimetres."""
    return mean_of(counted(joint_errors(procrustes(prediction, truth), truth), valid))


def per_joint_mpjpe(prediction: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> Array:
    """Return the mean error of each joint over the poses, (17,), millimetres."""
    errors = counted(joint_errors(prediction, truth), valid)
    return errors.mean(axis=0) if len(errors) else np.full(J, np.nan)


def velocity_errors(prediction: ArrayLike, truth: ArrayLike) -> Array:
    """Return |(p_j(f+1) - p_j(f)) - (t_j(f+1) - t_j(f))| for frames (…, F, 17, 3) of one clip: (…, F-1, 17), mm per frame."""
    p, t = checked_poses(prediction, truth)
    if p.ndim < 3:
        raise ValueError(f"expected the frames of a clip, (…, F, {J}, 3), got {p.shape}")
    return joint_errors(np.diff(p, axis=-3), np.diff(t, axis=-3))


def valid_pairs(valid: ArrayLike) -> NDArray[np.bool_]:
    """Return for frames (…, F) which of the F-1 pairs of neighbours count: those of which both frames do."""
    mask = np.asarray(valid, np.bool_)
    return mask[..., 1:] & mask[..., :-1]


def mpjve(prediction: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> float:
    """Return the mean per-joint velocity error between consecutive frames of one clip, millimetres per frame.

    Two clips must not be joined for this: the jump between them is no motion. ``valid`` (…, F) tells which frames count;
    a pair counts when both do. Source: Pavllo et al., VideoPose3D (CVPR 2019), section 5.
    """
    return mean_of(counted(velocity_errors(prediction, truth), None if valid is None else valid_pairs(valid)))


def pck_of(errors: Array, threshold: float = PCK_MM, joints: Sequence[int] = JOINTS_3DHP) -> float:
    """Return which percentage of the errors (…, 17), millimetres, of these joints is less than ``threshold``.

    NaN when one of them is NaN: a comparison would count it as a miss without saying so.
    """
    chosen = errors[..., list(joints)]
    return 100.0 * mean_of(np.where(np.isnan(chosen), np.nan, chosen < threshold))


def auc_of(errors: Array, joints: Sequence[int] = JOINTS_3DHP) -> float:
    """Return the mean of :func:`pck_of` over the thresholds 0, 5, …, 150 mm, percent."""
    return float(np.mean([pck_of(errors, threshold, joints) for threshold in AUC_MM]))


def pck(
    prediction: ArrayLike,
    truth: ArrayLike,
    threshold: float = PCK_MM,
    joints: Sequence[int] = JOINTS_3DHP,
    valid: ArrayLike | None = None,
) -> float:
    """Return the percentage of correct keypoints, 0..100: joints nearer to the truth than ``threshold`` millimetres.

    A joint at exactly the threshold is not correct. Both poses are relative to the hip, as MPI-INF-3DHP has it, and not
    aligned further. Source: Mehta et al., 3DV 2017; `mpii_compute_3d_pck.m` of its test set's tools.
    """
    return pck_of(counted(joint_errors(prediction, truth), valid), threshold, joints)


def auc(prediction: ArrayLike, truth: ArrayLike, joints: Sequence[int] = JOINTS_3DHP, valid: ArrayLike | None = None) -> float:
    """Return the area under the PCK curve, percent: the mean of PCK over the thresholds 0, 5, …, 150 mm.

    No error is less than 0, so a perfect estimate reaches 100 · 30/31 = 96.8, as with the original tools, see :func:`pck`.
    """
    return auc_of(counted(joint_errors(prediction, truth), valid), joints)


def action_of(name: str) -> str:
    """Return an action's name without the number of its repetition: "Walking 1" and "Walking" are both "Walking"."""
    return re.sub(r"\s+\d+$", "", name.strip())


def by_action(errors: ArrayLike, actions: Sequence[str]) -> tuple[dict[str, float], float]:
    """Return the mean error of each action, and the mean of these means.

    errors (n,) and actions (n,): one of each for every frame. Within an action every frame counts alike, whichever clip
    it is from; then every action does. This is how Human3.6M's results are quoted (VideoPose3D's `run.py`).
    """
    values, names = np.asarray(errors, np.float64), [action_of(action) for action in actions]
    if values.shape != (len(names),):
        raise ValueError(f"expected one error for each of the {len(names)} actions, got shape {values.shape}")
    order, index = np.unique(np.array(names, np.str_), return_inverse=True)
    means = np.bincount(index, weights=values, minlength=len(order)) / np.bincount(index, minlength=len(order))
    return {str(name): float(mean) for name, mean in zip(order, means, strict=True)}, mean_of(means)
