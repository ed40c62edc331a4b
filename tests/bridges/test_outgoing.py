"""People as messages: every number of an estimate where the message has it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.runtime.bridges.markers import LEAST_DIAMETER_M, MarkerStyle, ellipsoid, marker_array, nothing_left
from diffpose_edge.runtime.bridges.outgoing import CLOUD, joint_cloud, pose_array, transforms
from diffpose_edge.skeleton import BONES
from diffpose_edge.uncertainty import chi2_3_quantile

from .ros_doubles import ros_doubles
from .test_limb_frames import rotation

TYPES = ros_doubles()
STAMP = 1_700_000_000_000_000_007


def body(body_id: int, root: tuple[float, float, float] | None = None, covariance: float = 0.01) -> BodyEstimate:
    rng = np.random.default_rng(body_id)
    spread = rng.normal(size=(17, 3, 3)).astype(np.float32) * covariance
    joints = rng.normal(size=(17, 3)).astype(np.float32)
    joints[0] = 0
    S = spread @ spread.transpose(0, 2, 1)
    S[0] = 0
    placed = None if root is None else np.array(root, np.float32)
    return BodyEstimate(STAMP, "cam", body_id, joints, S, np.arange(17) % 5 > 0, root=placed)


def lost(body_id: int) -> BodyEstimate:
    nothing = np.full((17, 3), np.nan, np.float32)
    return BodyEstimate(STAMP, "cam", body_id, nothing, np.full((17, 3, 3), np.nan, np.float32), np.zeros(17, bool))


def test_poses_are_the_placed_joints_of_everybody_at_the_images_time() -> None:
    people = [body(4, root=(1, 2, 3)), lost(5), body(6)]
    message = pose_array(TYPES, STAMP, "cam", people)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (1_700_000_000, 7, "cam")
    places = np.array([[p.position.x, p.position.y, p.position.z] for p in message.poses], np.float32)
    np.testing.assert_array_equal(places, np.concatenate([person.placed_joints for person in people]))
    assert np.isnan(places[17:34]).all()
    assert {(p.orientation.x, p.orientation.w) for p in message.poses} == {(0.0, 1.0)}


def test_the_cloud_has_ids_joints_and_covariances() -> None:
    people = [body(4, root=(1, 2, 3)), lost(5), body(6)]
    message = joint_cloud(TYPES, STAMP, "cam", people)
    points = np.frombuffer(bytes(message.data), CLOUD)
    assert [(f.name, f.offset) for f in message.fields] == [(name, CLOUD.fields[name][1]) for name in CLOUD.names]
    assert (message.width, message.height, message.point_step, message.row_step) == (34, 1, 48, 34 * 48)
    assert points["body_id"].tolist() == [4] * 17 + [6] * 17
    assert points["joint"].tolist() == list(range(17)) * 2
    assert points["observed"].tolist() == people[0].observed.astype(int).tolist() * 2
    np.testing.assert_array_equal(np.stack([points[a][:17] for a in "xyz"], axis=-1), people[0].placed_joints)
    for i, row in enumerate("xyz"):
        for j in range(i, 3):
            np.testing.assert_array_equal(points[row + "xyz"[j]][17:], people[2].covariance[:, i, j])
    assert message.is_dense


def test_nobody_is_an_empty_message() -> None:
    assert pose_array(TYPES, STAMP, "cam", []).poses == []
    assert joint_cloud(TYPES, STAMP, "cam", []).width == 0
    assert marker_array(TYPES, STAMP, "cam", [lost(1)], MarkerStyle()).markers == []


@pytest.mark.parametrize("joint", range(1, 17))
def test_an_ellipsoid_turns_and_stretches_a_sphere_into_the_covariance(joint: int) -> None:
    covariance = body(1).covariance[joint]
    found = ellipsoid(covariance, 0.9)
    assert found is not None
    diameters, q = found
    axes = rotation(q)
    rebuilt = axes @ np.diag(np.square(np.array(diameters) / 2)) @ axes.T / chi2_3_quantile(0.9)
    np.testing.assert_allclose(rebuilt, covariance, rtol=1e-4, atol=1e-8)


def test_a_flat_ellipsoid_keeps_a_thickness_and_an_unknown_one_is_none() -> None:
    found = ellipsoid(np.diag([0.01, 0.0, -1e-12]).astype(np.float32), 0.5)
    assert found is not None
    assert sorted(found[0])[:2] == [LEAST_DIAMETER_M, LEAST_DIAMETER_M]
    assert ellipsoid(np.full((3, 3), np.nan, np.float32), 0.5) is None


def test_markers_are_bones_names_and_ellipsoids_that_go_by_themselves() -> None:
    people = [body(4, root=(1, 2, 3)), lost(5)]
    made = marker_array(TYPES, STAMP, "cam", people, MarkerStyle(level=0.5, lifetime_s=0.25)).markers
    by_place = {(marker.ns, marker.id): marker for marker in made}
    assert len(by_place) == len(made)
    assert set(by_place) == {("bones", 4), ("names", 4), *(("ellipsoids_4", j) for j in range(1, 17))}
    assert {(m.lifetime.sec, m.lifetime.nanosec, m.header.frame_id, m.header.stamp.nanosec) for m in made} == {(0, 250_000_000, "cam", 7)}
    joints = people[0].placed_joints
    drawn = np.array([[p.x, p.y, p.z] for p in by_place["bones", 4].points], np.float32)
    np.testing.assert_array_equal(drawn, joints[np.array(BONES).ravel()])
    assert len(by_place["bones", 4].colors) == len(drawn)
    assert by_place["names", 4].text == "body 4"
    ball = by_place["ellipsoids_4", 16]
    np.testing.assert_array_equal(np.float32([ball.pose.position.x, ball.pose.position.y, ball.pose.position.z]), joints[16])
    expected = ellipsoid(people[0].covariance[16], 0.5)
    assert expected is not None
    assert (ball.scale.x, ball.scale.y, ball.scale.z) == expected[0]


def test_joints_without_a_covariance_have_no_ellipsoid() -> None:
    person = body(1)
    person.covariance[:] = math.nan
    assert {m.ns for m in marker_array(TYPES, STAMP, "cam", [person], MarkerStyle()).markers} == {"bones", "names"}


def test_the_last_message_removes_everything() -> None:
    assert [marker.action for marker in nothing_left(TYPES).markers] == [TYPES.Marker.DELETEALL]


def test_transforms_are_of_people_whose_place_is_known_unless_wished_otherwise() -> None:
    people = [body(4, root=(1, 2, 3)), body(6), lost(7)]
    known = transforms(TYPES, STAMP, "cam", people, unplaced=False)
    assert {t.child_frame_id.rsplit("_", 1)[1] for t in known} == {"4"}
    assert (known[0].header.frame_id, known[0].child_frame_id, known[1].header.frame_id) == ("cam", "body_4", "body_4")
    assert (known[0].transform.translation.x, known[0].transform.translation.z) == (1.0, 3.0)
    everybody = transforms(TYPES, STAMP, "cam", people, unplaced=True)
    placed = {t.child_frame_id: t.transform.translation.z for t in everybody}
    assert (placed["body_4"], placed["body_6"]) == (3.0, 0.0)
    assert {t.child_frame_id for t in everybody} == {name for t in known for name in (t.child_frame_id, t.child_frame_id[:-1] + "6")}
