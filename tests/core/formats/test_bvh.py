"""BVH: forward kinematics of the written file gives the joints back, as far as bones of constant length can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.errors import OutputError
from diffpose_edge.formats import PoseSequence, bvh, read_poses, write_poses
from diffpose_edge.formats.bvh_file import ROTATIONS, Motion, Node, parse_bvh, positions, turn
from diffpose_edge.skeleton import BONES, JOINTS
from diffpose_edge.tolerances import BVH_JOINT_ABS_M

Array = NDArray[np.float64]
LENGTHS = np.array([0.13, 0.44, 0.45, 0.13, 0.44, 0.45, 0.24, 0.25, 0.11, 0.12, 0.15, 0.28, 0.25, 0.15, 0.28, 0.25])


def _sequence(directions: Array, lengths: Array, root: Array | None = None, fps: float = 30.0) -> PoseSequence:
    """Poses of bones (frames, 16, 3) as directions, and lengths (frames, 16) or (16,)."""
    bones = directions / np.linalg.norm(directions, axis=-1, keepdims=True) * lengths[..., None]
    joints = np.zeros((len(directions), 17, 3))
    for i, (parent, child) in enumerate(BONES):
        joints[:, child] = joints[:, parent] + bones[:, i]
    return PoseSequence(joints.astype(np.float32), fps, np.arange(len(joints)), None if root is None else root.astype(np.float32))


def _back(poses: PoseSequence, tmp_path: Path) -> PoseSequence:
    write_poses(tmp_path / "p.bvh", poses)
    return read_poses(tmp_path / "p.bvh")


def _error(poses: PoseSequence, tmp_path: Path) -> float:
    return float(np.abs(_back(poses, tmp_path).placed - poses.placed).max())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 5), st.booleans())
def test_bones_of_constant_length_come_back_whatever_they_do(tmp_path: Path, seed: int, frames: int, root: bool) -> None:
    """Directions at random: no body bends like this, and each bone has to be free of the others."""
    rng = np.random.default_rng(seed)
    where = rng.normal(0, 3, (frames, 3)) if root else None
    poses = _sequence(rng.normal(size=(frames, 16, 3)), LENGTHS, where, fps=29.97)
    assert _error(poses, tmp_path) <= BVH_JOINT_ABS_M
    assert _back(poses, tmp_path).fps == pytest.approx(29.97, rel=1e-12)


@pytest.mark.parametrize("direction", [(0, -1, 0), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1)])
def test_along_the_axes_where_angles_are_not_unique(tmp_path: Path, direction: tuple[int, int, int]) -> None:
    """Half turns from the rest pose, quarter turns about x (gimbal lock), and a body folded up into a line."""
    directions = np.tile(np.array(direction, float), (3, 16, 1))
    directions[1, ::2] *= -1  # each bone back along the one before
    directions[2] += 1e-9
    assert _error(_sequence(directions, LENGTHS), tmp_path) <= BVH_JOINT_ABS_M


def test_the_rest_pose_has_no_rotations(tmp_path: Path) -> None:
    rest = np.array([bvh.REST[child] for _, child in BONES]) * [1, -1, -1]  # in the camera's axes, y down
    write_poses(tmp_path / "p.bvh", _sequence(rest[None], LENGTHS))
    assert np.abs(parse_bvh(tmp_path / "p.bvh").channels).max() == 0


def test_a_bone_without_length_does_not_matter(tmp_path: Path) -> None:
    lengths = LENGTHS.copy()
    lengths[[1, 6, 10]] = 0
    directions = np.random.default_rng(1).normal(size=(4, 16, 3))
    assert _error(_sequence(directions, lengths), tmp_path) <= BVH_JOINT_ABS_M


def test_bones_that_change_length_err_by_just_the_differences_along_the_chain(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lengths = LENGTHS * rng.uniform(0.9, 1.1, (9, 16))
    poses = _sequence(rng.normal(size=(9, 16, 3)), lengths)
    back = _back(poses, tmp_path)
    median = np.median(lengths, axis=0)
    # Directions stay, so each joint errs by what the bones before it lack, each along its own direction.
    expected = _sequence(poses.joints[:, [c for _, c in BONES]] - poses.joints[:, [p for p, _ in BONES]], median)
    np.testing.assert_allclose(back.joints, expected.joints, rtol=0, atol=BVH_JOINT_ABS_M)
    assert np.abs(back.joints - poses.joints).max() > 0.01


def test_captured_motion_errs_by_no_more_than_its_bones_stretch(tmp_path: Path) -> None:
    with np.load(mocap_clips_path()) as content:
        world = content["climb_0"][:120].astype(np.float64)
    camera = np.stack([world[..., 0], -world[..., 2], world[..., 1]], axis=-1)
    poses = PoseSequence((camera - camera[:, :1]).astype(np.float32), 30.0, np.arange(120), camera[:, 0].astype(np.float32))
    back = _back(poses, tmp_path)
    lengths = {child: np.linalg.norm(camera[:, child] - camera[:, parent], axis=1) for parent, child in BONES}
    stretch = {child: np.abs(length - np.median(length)) for child, length in lengths.items()}
    parents = {child: parent for parent, child in BONES}
    for joint in range(1, 17):
        allowed, at = np.full(120, BVH_JOINT_ABS_M), joint
        while at:
            allowed += stretch[at]
            at = parents[at]
        assert (np.linalg.norm(back.joints[:, joint] - poses.joints[:, joint], axis=1) <= allowed).all(), JOINTS[joint]


def test_angles_of_any_rotation_make_it_again_at_a_quarter_turn_too() -> None:
    """With x at a quarter turn, z and y turn about one axis and only their sum or difference is known."""
    rng = np.random.default_rng(6)
    given_ones = np.radians(rng.uniform(-180, 180, (60, 3)))
    given_ones[:40, 1] = np.pi / 2 * rng.choice([-1, 1], 40)
    given_ones[20:40, 1] += rng.normal(0, 1e-10, 20)

    def made(angles: Array) -> Array:
        return turn(2, angles[:, 0]) @ turn(0, angles[:, 1]) @ turn(1, angles[:, 2])

    # As rotations are that other operations have rounded.
    matrices = made(given_ones) + rng.normal(0, 1e-13, (60, 3, 3))
    np.testing.assert_allclose(made(np.radians(bvh._angles(matrices))), matrices, rtol=0, atol=1e-8)


def test_curves_go_on_beyond_half_a_turn(tmp_path: Path) -> None:
    """A person who spins by 20 degrees a frame, twice round: no angle jumps back by a whole turn."""
    pose = _sequence(np.random.default_rng(7).normal(size=(1, 16, 3)), LENGTHS).joints[0].astype(np.float64)
    joints = np.einsum("fij,kj->fki", turn(1, np.radians(20.0 * np.arange(37))), pose).astype(np.float32)
    write_poses(tmp_path / "p.bvh", PoseSequence(joints, 30.0, np.arange(37)))
    hip = parse_bvh(tmp_path / "p.bvh").channels[:, 3:6]
    assert np.abs(np.diff(hip, axis=0)).max() < 181
    assert np.ptp(hip, axis=0).max() > 400


def test_a_frame_without_a_pose_repeats_the_one_before_or_the_first(tmp_path: Path) -> None:
    poses = _sequence(np.random.default_rng(3).normal(size=(5, 16, 3)), LENGTHS)
    joints = poses.joints.copy()
    joints[[0, 2, 3]] = np.nan
    back = _back(PoseSequence(joints, 30.0, poses.frames), tmp_path)
    for frame, shown in ((0, 1), (1, 1), (2, 1), (3, 1), (4, 4)):
        np.testing.assert_allclose(back.joints[frame], poses.joints[shown], rtol=0, atol=BVH_JOINT_ABS_M)
    with pytest.raises(OutputError, match="no frame has a pose"):
        write_poses(tmp_path / "none.bvh", PoseSequence(np.full_like(joints, np.nan), 30.0, poses.frames))


def test_the_hierarchy_is_the_documented_one(tmp_path: Path) -> None:
    write_poses(tmp_path / "p.bvh", _sequence(np.random.default_rng(4).normal(size=(2, 16, 3)), LENGTHS))
    motion = parse_bvh(tmp_path / "p.bvh")
    named = [node for node in motion.nodes if node.name]
    pivots = {node.name.removesuffix("_pivot") for node in named if node.name.endswith("_pivot")}
    assert pivots == {"right_hip", "left_hip", "spine", "neck", "left_shoulder", "right_shoulder"}
    assert {node.name for node in named} - {f"{joint}_pivot" for joint in pivots} == set(JOINTS)
    for node in named:
        assert node.channels[-3:] == ("Zrotation", "Xrotation", "Yrotation")
        assert len(node.channels) == (6 if node.parent < 0 else 3)
        if node.parent >= 0 and not node.name.endswith("_pivot"):
            above = motion.nodes[node.parent].name.removesuffix("_pivot")
            parent = next(parent for parent, child in BONES if JOINTS[child] == node.name)
            assert above in (JOINTS[parent], node.name)
    # Upright in the rest pose, in centimetres, the person's left on +x.
    offsets = {node.name: node.offset for node in named}
    assert offsets["left_knee"] == pytest.approx((0.0, -44.0, 0.0), abs=100 * BVH_JOINT_ABS_M)
    assert offsets["left_hip"] == pytest.approx((13.0, 0.0, 0.0), abs=100 * BVH_JOINT_ABS_M)


def test_forward_kinematics_by_hand() -> None:
    """A shoulder turned a quarter about z, then an elbow a quarter about the turned y: Rz Ry on columns, worked out on paper."""
    nodes = (
        Node("shoulder", -1, (1.0, 0.0, 0.0), ("Xposition", "Yposition", "Zposition", "Zrotation")),
        Node("elbow", 0, (2.0, 0.0, 0.0), ("Yrotation", "Xrotation")),
        Node("wrist", 1, (3.0, 0.0, 0.0), ()),
    )
    placed = positions(Motion(nodes, np.array([[0.0, 10.0, 0.0, 90.0, 90.0, 0.0]]), 0.1))
    np.testing.assert_allclose(placed["shoulder"], [[1, 10, 0]], atol=1e-12)
    np.testing.assert_allclose(placed["elbow"], [[1, 12, 0]], atol=1e-12)
    np.testing.assert_allclose(placed["wrist"], [[1, 12, -3]], atol=1e-12)


@pytest.mark.parametrize("order", [("Zrotation", "Xrotation", "Yrotation"), ("Xrotation", "Yrotation", "Zrotation")])
def test_rotations_apply_in_the_order_of_the_channels(order: tuple[str, ...]) -> None:
    angles = np.array([[20.0, 50.0, -70.0]])
    nodes = (Node("a", -1, (0.0, 0.0, 0.0), order), Node("b", 0, (0.3, 0.5, 0.7), ()))
    matrix = np.eye(3)
    for name, angle in zip(order, angles[0], strict=True):
        matrix = matrix @ turn(ROTATIONS.index(name), np.radians(np.array(angle)))
    np.testing.assert_allclose(positions(Motion(nodes, angles, 0.1))["b"][0], matrix @ (0.3, 0.5, 0.7), atol=1e-12)


def test_a_fault_in_the_kinematics_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of rotations, or bones from the mean instead of each bone's direction, is far outside the tolerance."""
    poses = _sequence(np.random.default_rng(5).normal(size=(3, 16, 3)), LENGTHS)
    assert _error(poses, tmp_path) <= BVH_JOINT_ABS_M
    monkeypatch.setattr(bvh, "TURNS", ("Xrotation", "Zrotation", "Yrotation"))
    assert _error(poses, tmp_path) > 0.01
    monkeypatch.undo()
    monkeypatch.setattr(bvh, "_towards", lambda above, child, bones: above)
    assert _error(poses, tmp_path) > 0.01
