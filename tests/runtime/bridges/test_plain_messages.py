"""Messages in plain classes: what is read from them, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_edge.keypoints import denormalise
from diffpose_edge.runtime.bridges.joint_cloud import point_cloud
from diffpose_edge.runtime.bridges.plain_messages import (
    ADD,
    DELETE_ALL,
    Counts,
    Refused,
    image_size_of,
    keypoints_of,
    marker_array,
    pose_array,
    stamp_ns_of,
)

from .people import body_of, message_of, people_of


def classes(name: str) -> type[SimpleNamespace]:
    return SimpleNamespace


def test_keypoints_come_out_as_they_went_in() -> None:
    people = people_of(0, 3)
    people[1, 3, :2] = np.nan  # not seen: its coordinates do not matter
    read = keypoints_of(message_of(people))
    np.testing.assert_array_equal(read.uv, people[..., :2].astype(np.float32))
    np.testing.assert_array_equal(read.confidence, people[..., 2].astype(np.float32))
    assert len(keypoints_of(message_of(np.zeros((0, 3))))) == 0


def test_pixels_are_normalised_by_the_size_of_the_image() -> None:
    people = people_of(0, 1)
    pixels = np.concatenate([denormalise(people[..., :2], (640, 480)), people[..., 2:]], axis=-1)
    np.testing.assert_array_equal(keypoints_of(message_of(pixels), (640, 480)).uv, people[..., :2].astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "index", "value", "match"),
    [
        ("keypoints", (0, 5, 0), np.nan, "right|left|finite"),
        ("keypoints", (0, 5, 1), np.inf, "finite"),
        ("keypoints", (0, 5, 2), 1.5, "0..1"),
        ("keypoints", (0, 5, 2), np.nan, "0..1"),
        ("keypoints", (0, 5, 0), 320.0, "pixels"),
    ],
)
def test_keypoints_that_no_detector_means_are_refused(kind: str, index: tuple, value: float, match: str) -> None:
    people = people_of(0, 1)
    people[index] = value
    with pytest.raises(Refused, match=match) as refused:
        keypoints_of(message_of(people))
    assert refused.value.kind == kind


def test_other_numbers_of_joints_are_refused() -> None:
    with pytest.raises(Refused, match="17 poses for each person, got 33") as refused:
        keypoints_of(message_of(np.zeros((33, 3))))
    assert refused.value.kind == "length"


def test_stamps_are_whole_nanoseconds_or_refused() -> None:
    empty = np.zeros((0, 3))
    assert stamp_ns_of(message_of(empty, 1_700_000_000, 999_999_999).header) == 1_700_000_000_999_999_999
    for sec, nanosec in ((-1, 0), (0, 1_000_000_000), (0, 0)):
        with pytest.raises(Refused, match=r"header.stamp"):
            stamp_ns_of(message_of(empty, sec, nanosec).header)


def test_a_camera_without_an_image_is_refused() -> None:
    assert image_size_of(SimpleNamespace(width=640, height=480)) == (640, 480)
    with pytest.raises(Refused, match="got 0 x 480"):
        image_size_of(SimpleNamespace(width=0, height=480))


def test_poses_are_placed_and_a_body_without_one_keeps_its_rows() -> None:
    root = np.array([1.0, 2.0, 3.0], np.float32)
    bodies = [body_of(0, root=root), body_of(1, joints=np.full((17, 3), np.nan, np.float32)), body_of(2)]
    message = pose_array(classes, bodies, 12_000_000_034, "camera")
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (12, 34, "camera")
    read = np.array([(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses], np.float32).reshape(3, 17, 3)
    np.testing.assert_array_equal(read[0], bodies[0].joints + root)
    assert np.isnan(read[1]).all()
    np.testing.assert_array_equal(read[2], bodies[2].joints)
    assert {(pose.orientation.x, pose.orientation.w) for pose in message.poses} == {(0.0, 1.0)}


def test_markers_begin_with_a_clean_slate_and_skip_who_has_no_pose() -> None:
    bodies = [body_of(0, 4), body_of(1, 5, joints=np.full((17, 3), np.nan, np.float32))]
    first, bones, joints, *rest = marker_array(classes, bodies, 7, "camera").markers
    assert (first.action, bones.action) == (DELETE_ALL, ADD)
    assert (bones.ns, bones.id, len(bones.points)) == ("bones", 4, 32)
    assert (joints.ns, joints.id, len(joints.points)) == ("joints", 4, 17)
    assert [each.id for each in rest] == [17 * 4 + joint for joint in range(1, 17)]
    assert all(each.ns == "ellipsoids" and min(each.scale.x, each.scale.y, each.scale.z) > 0 for each in rest)


def test_the_cloud_says_whose_joints_they_are_and_how_far_they_may_err() -> None:
    root = np.array([1.0, 2.0, 3.0], np.float32)
    seen = np.arange(17) != 9
    covariance = body_of(2).covariance.copy()
    covariance[5] = np.nan
    lost = body_of(1, 5, joints=np.full((17, 3), np.nan, np.float32))
    bodies = [body_of(0, 4, root=root, observed=seen), lost, body_of(2, 6, covariance=covariance)]
    message = point_cloud(classes, bodies, 12_000_000_034, "camera")
    assert (message.header.stamp.nanosec, message.height, message.width, message.is_dense) == (34, 1, 34, False)
    # Read as a stranger does, by the fields that the message has.
    formats = {5: "<i4", 7: "<f4"}
    layout = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [formats[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    points = np.frombuffer(message.data.tobytes(), layout).reshape(2, 17)
    assert message.row_step == points.nbytes
    for row, body in zip(points, (bodies[0], bodies[2]), strict=True):
        np.testing.assert_array_equal(np.stack([row[axis] for axis in "xyz"], axis=-1), body.placed_joints)
        for i, j, name in ((0, 0, "xx"), (0, 1, "xy"), (0, 2, "xz"), (1, 1, "yy"), (1, 2, "yz"), (2, 2, "zz")):
            np.testing.assert_array_equal(row[name], body.covariance[:, i, j])
        assert set(row["body_id"]) == {body.body_id}
        np.testing.assert_array_equal(row["joint"], np.arange(17))
        np.testing.assert_array_equal(row["observed"], body.observed)
    assert point_cloud(classes, bodies[:1], 1, "camera").is_dense
    assert point_cloud(classes, [], 1, "camera").width == 0


def test_counts_say_what_was_refused_and_why() -> None:
    counts = Counts(received=4, answered=1)
    for kind in ("length", "stamp", "length"):
        counts.refuse(Refused(kind, "why"))
    assert str(counts) == "4 messages, 1 answered, 3 refused (2 length, 1 stamp)"
