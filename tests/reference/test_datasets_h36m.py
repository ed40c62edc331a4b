"""Human3.6M in VideoPose3D's layout, its cameras, and the released DiffPose's mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.errors import DatasetError, KeypointError, OutputError
from diffpose_edge.keypoints import denormalise, normalise_pixels
from diffpose_edge.reference.datasets.gmm_building import (
    SEEN,
    gmm_file_of_detections,
    mixtures_of_detections,
    mixtures_of_heatmaps,
)
from diffpose_edge.reference.datasets.gmm_files import read_gmm, read_h36m_gmm, save_gmm
from diffpose_edge.reference.datasets.h36m_cameras import CAMERA_NAMES, EXTRINSICS, IMAGE_SIZES, INTRINSICS, h36m_cameras
from diffpose_edge.reference.datasets.sequences import Mixture2D, Sequence
from diffpose_edge.reference.datasets.videopose3d import KEPT_OF_32, LEFT, RIGHT, detections_2d, positions_3d, read_h36m

FRAMES = {("S1", "Walking 1"): 4, ("S1", "Eating"): 3, ("S11", "Walking 1"): 5}
METADATA: dict[str, Any] = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]}


def person(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Poses (frames, 17, 3) of nobody in particular, as large as a person, standing in the middle of the hall."""
    rng = np.random.default_rng([seed, frames])
    return (rng.uniform(-0.5, 0.5, (frames, 17, 3)) + (0.3, -0.2, 1.0)).astype(np.float32)


def rotated_back(q: Any, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn v by the inverse of the unit quaternion q, by q* v q with Hamilton's product: not how the package does it."""

    def times(a: Any, b: Any) -> NDArray[np.float64]:
        (w, x, y, z), (s, t, u, r) = (np.moveaxis(np.asarray(c, np.float64), -1, 0) for c in (a, b))
        return np.stack(
            [w * s - x * t - y * u - z * r, w * t + x * s + y * r - z * u, w * u - x * r + y * s + z * t, w * r + x * u - y * t + z * s], -1
        )

    conjugate = np.asarray(q) * (1, -1, -1, -1)
    return times(times(conjugate, np.concatenate([np.zeros((*v.shape[:-1], 1)), v], -1)), np.asarray(q))[..., 1:]


def in_pixels(subject: str, camera: int, world: NDArray[Any]) -> NDArray[np.float64]:
    """Project as Human3.6M's original code writes it, with p1 and p2 in the order of its own files."""
    focal, centre, k, (p2, p1) = INTRINSICS[camera]
    orientation, translation = EXTRINSICS[subject][camera]
    x, y, z = np.moveaxis(rotated_back(orientation, world.astype(np.float64) - np.array(translation) / 1000), -1, 0)
    a, b = x / z, y / z
    r2 = a * a + b * b
    along = 1 + k[0] * r2 + k[1] * r2**2 + k[2] * r2**3 + p1 * b + p2 * a
    return np.stack([focal[0] * (a * along + p2 * r2) + centre[0], focal[1] * (b * along + p1 * r2) + centre[1]], -1)


def files(folder: Path, joints: int = 17, extra: int = 0, numbers: int = 2) -> tuple[Path, Path]:
    """Write data_3d_h36m.npz and a 2D file with its projections, in the published layout, object arrays and all."""
    world: dict[str, Any] = {}
    views: dict[str, Any] = {}
    for seed, ((subject, action), frames) in enumerate(FRAMES.items()):
        pose = person(frames, seed)
        all_joints = np.full((frames, 32, 3), 77.0, np.float32)
        all_joints[:, KEPT_OF_32] = pose
        world.setdefault(subject, {})[action] = pose if joints == 17 else all_joints
        longer = np.concatenate([pose, np.repeat(pose[-1:] + 0.1, extra, axis=0)])
        confidence = np.linspace(0.5, 1.0, 17, dtype=np.float32)[:, None] * np.ones((frames + extra, 1, 1), np.float32)
        views.setdefault(subject, {})[action] = [
            np.concatenate([in_pixels(subject, c, longer), confidence], -1).astype(np.float32)[..., :numbers] for c in range(4)
        ]
    path_3d, path_2d = folder / "data_3d_h36m.npz", folder / "data_2d_h36m_cpn.npz"
    np.savez_compressed(path_3d, positions_3d=np.array(world, dtype=object))
    save_2d(path_2d, views)
    return path_3d, path_2d


def save_2d(path: Path, views: Any, metadata: Any = METADATA) -> Path:
    np.savez_compressed(path, positions_2d=np.array(views, dtype=object), metadata=np.array(metadata, dtype=object))
    return path


def content(path: Path, name: str) -> Any:
    with np.load(path, allow_pickle=True) as npz:
        return npz[name].item()


# Cameras


def test_every_figure_of_the_calibration_is_a_float32() -> None:
    """The published figures are float32 written out as doubles: a wrong digit would not be one."""
    figures = [f for camera in INTRINSICS for part in camera for f in part]
    figures += [f for cameras in EXTRINSICS.values() for camera in cameras for part in camera for f in part]
    assert len(figures) == 4 * 9 + 7 * 4 * 7
    assert [f for f in figures if float(np.float32(f)) != f] == []


@pytest.mark.parametrize("subject", EXTRINSICS)
def test_every_camera_looks_at_the_middle_of_the_hall(subject: str) -> None:
    for camera, (w, h) in zip(h36m_cameras(subject), IMAGE_SIZES, strict=True):
        assert abs(np.linalg.norm(camera.orientation) - 1) < 1e-6
        middle, head, feet = (camera.from_world([0, 0, z]) for z in (1.0, 2.0, 0.0))
        assert 3 < middle[2] < 7
        x, y = camera.project(middle)
        assert 0.25 * w < x < 0.75 * w
        assert 0.25 * h < y < 0.75 * h
        assert camera.project(head)[1] < y - 100 < y + 100 < camera.project(feet)[1]


def test_the_cameras_project_as_the_data_sets_own_formula_does() -> None:
    world = person(20).astype(np.float64)
    for c, camera in enumerate(h36m_cameras("S9")):
        # The published quaternions are unit within 3e-8 only, which moves a point 5 m away by less than 1e-6 m, 1e-3 pixels.
        np.testing.assert_allclose(camera.project(camera.from_world(world)), in_pixels("S9", c, world), rtol=0, atol=1e-3)


def test_unknown_subjects_have_no_cameras() -> None:
    with pytest.raises(DatasetError, match="'S2'; expected one of S1, S5, S6, S7, S8, S9, S11"):
        h36m_cameras("S2")


# VideoPose3D's files


@pytest.mark.parametrize("joints", [17, 32])
def test_sequences_are_in_the_projects_conventions(tmp_path: Path, joints: int) -> None:
    path_3d, path_2d = files(tmp_path, joints)
    sequences = read_h36m(path_3d, path_2d, allow_pickle=True)
    assert [(s.subject, s.action, s.camera) for s in sequences] == [(*key, name) for key in FRAMES for name in CAMERA_NAMES]
    for s in sequences:
        frames = FRAMES[s.subject, s.action]
        assert (len(s), s.uv.shape, s.xyz.shape, s.root.shape) == (frames, (frames, 17, 2), (frames, 17, 3), (frames, 3))
        assert (s.uv.dtype, s.xyz.dtype, s.root.dtype) == (np.float32,) * 3
        assert (s.fps, s.confidence, s.mixture, s.valid) == (50.0, None, None, None)
        np.testing.assert_array_equal(s.xyz[:, 0], np.zeros((frames, 3)))
        index = CAMERA_NAMES.index(s.camera)
        assert s.image_size == IMAGE_SIZES[index]
        # The pose, projected again, is the 2D: float32 of some 500 pixels is good to 3e-5, of 5 m to 2.4e-7 m or 6e-5 pixels.
        again = h36m_cameras(s.subject)[index].project(s.xyz + s.root[:, None].astype(np.float64))
        np.testing.assert_allclose(again, denormalise(s.uv, s.image_size), rtol=0, atol=2e-3)
        assert np.abs(again - denormalise(s.uv, (1000, 1001))).max() > 0.4  # the image's height matters


def test_the_joints_that_are_kept_and_their_mirror_pairs() -> None:
    assert (list(LEFT), list(RIGHT)) == (METADATA["keypoints_symmetry"][0], METADATA["keypoints_symmetry"][1])
    # Those that VideoPose3D removes, out of 32 in order.
    assert tuple(j for j in range(32) if j not in {4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31}) == KEPT_OF_32


def test_longer_2d_is_cut_at_the_end_and_shorter_2d_refused(tmp_path: Path) -> None:
    plain = read_h36m(*files(tmp_path), allow_pickle=True)
    path_3d, path_2d = files(tmp_path, extra=3)
    assert len(detections_2d(path_2d, allow_pickle=True)["S1"]["Eating"][0]) == 6
    for a, b in zip(plain, read_h36m(path_3d, path_2d, allow_pickle=True), strict=True):
        np.testing.assert_array_equal(a.uv, b.uv)
    views = content(path_2d, "positions_2d")
    views["S11"]["Walking 1"][2] = views["S11"]["Walking 1"][2][:4]
    with pytest.raises(DatasetError, match="S11/Walking 1/58860488: expected at least the 5 frames of the 3D, got 4"):
        read_h36m(path_3d, save_2d(path_2d, views), allow_pickle=True)


def test_a_third_number_is_the_confidence(tmp_path: Path) -> None:
    for s in read_h36m(*files(tmp_path, numbers=3), allow_pickle=True):
        assert s.confidence is not None
        np.testing.assert_array_equal(s.confidence, np.broadcast_to(np.linspace(0.5, 1, 17, dtype=np.float32), (len(s), 17)))


def test_subjects_can_be_chosen_and_must_be_in_both(tmp_path: Path) -> None:
    path_3d, path_2d = files(tmp_path)
    assert {s.subject for s in read_h36m(path_3d, path_2d, subjects=["S11"], allow_pickle=True)} == {"S11"}
    with pytest.raises(DatasetError, match=r"data_3d_h36m.npz has no subject 'S9'; it has: S1, S11"):
        read_h36m(path_3d, path_2d, subjects=["S9"], allow_pickle=True)
    views = content(path_2d, "positions_2d")
    only = save_2d(tmp_path / "only.npz", {"S1": views["S1"]})
    assert {s.subject for s in read_h36m(path_3d, only, allow_pickle=True)} == {"S1"}
    with pytest.raises(DatasetError, match=r"only.npz has no subject 'S11'"):
        read_h36m(path_3d, only, subjects=["S1", "S11"], allow_pickle=True)
    with pytest.raises(DatasetError, match="none is in both"):
        read_h36m(path_3d, save_2d(tmp_path / "other.npz", {"S9": views["S1"]}), allow_pickle=True)


def test_2d_without_3d_is_left_out_and_3d_without_2d_refused(tmp_path: Path) -> None:
    path_3d, path_2d = files(tmp_path)
    views = content(path_2d, "positions_2d")
    views["S11"]["Directions"] = views["S11"]["Walking 1"]
    assert len(read_h36m(path_3d, save_2d(path_2d, views), allow_pickle=True)) == 4 * len(FRAMES)
    del views["S1"]["Eating"]
    with pytest.raises(DatasetError, match="has no action 'Eating' of S1"):
        read_h36m(path_3d, save_2d(path_2d, views), allow_pickle=True)


def test_without_the_flag_nothing_is_read(tmp_path: Path) -> None:
    path_3d, path_2d = files(tmp_path)
    for read in (
        lambda: read_h36m(path_3d, path_2d),
        lambda: positions_3d(path_3d),
        lambda: detections_2d(path_2d),
        lambda: read_gmm(path_2d),
    ):
        with pytest.raises(DatasetError, match="pickle"):
            read()


def test_the_ground_truth_file_has_no_layout_name(tmp_path: Path) -> None:
    path_3d, path_2d = files(tmp_path)
    metadata = {"num_joints": 17, "keypoints_symmetry": METADATA["keypoints_symmetry"]}
    assert read_h36m(path_3d, save_2d(path_2d, content(path_2d, "positions_2d"), metadata), allow_pickle=True)


COCO = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]}


@pytest.mark.parametrize("metadata", [COCO, {**METADATA, "layout_name": "coco"}, {**COCO, "layout_name": "h36m"}, {"num_joints": 17}])
def test_other_layouts_of_17_joints_are_refused(tmp_path: Path, metadata: Any) -> None:
    _, path_2d = files(tmp_path)
    with pytest.raises(DatasetError, match="expected keypoints of the layout h36m"):
        detections_2d(save_2d(path_2d, content(path_2d, "positions_2d"), metadata), allow_pickle=True)


def _one(array: Any) -> Any:
    return {"S1": {"Walking 1": array}}


BAD_3D = {
    "16 joints": (person(4)[:, :16], r"S1/Walking 1: expected an array of shape \(frames, 17 or 32, 3\).*\(4, 16, 3\)"),
    "2D": (person(4)[..., :2], r"got \(4, 17, 2\)"),
    "no frames": (person(4)[:0], "at least one frame"),
    "nan": (np.where(np.arange(3) == 1, np.nan, person(4)), r"expected finite numbers, got nan at \[0, 0, 1\]"),
    "words": (np.full((4, 17, 3), "x"), "expected numbers, got <U1"),
    "millimetres": (person(4) * 1000, "S1/Walking 1: the joint farthest from the hip is .* m away.*unit"),
    "millimetres of mice": (person(4) / 1000, "unit"),
    "a list": ([person(4)], "expected an array 'Walking 1'; it is a dictionary or a list"),
}


@pytest.mark.parametrize("name", BAD_3D)
def test_other_3d_is_refused_and_named(tmp_path: Path, name: str) -> None:
    bad, said = BAD_3D[name]
    path_3d, path_2d = files(tmp_path)
    np.savez(path_3d, positions_3d=np.array(_one(bad), dtype=object))
    with pytest.raises(DatasetError, match=rf"data_3d_h36m.npz.*{said}"):
        read_h36m(path_3d, path_2d, allow_pickle=True)


def _pixels(frames: int = 4, numbers: int = 2) -> NDArray[np.float64]:
    return np.random.default_rng(1).uniform(100, 900, (frames, 17, numbers))


BAD_2D = {
    "three cameras": ([_pixels()] * 3, "expected a list with one array for each of the four cameras, got 0, 1, 2"),
    "five cameras": ([_pixels()] * 5, "four cameras"),
    "one array": (_pixels(), r"expected a list of cameras, got an array of shape \(4, 17, 2\)"),
    "a camera without detections": ([_pixels(), None, _pixels(), _pixels()], "S1/Walking 1/1 is NoneType"),
    "16 joints": ([_pixels()[:, :16]] * 4, r"S1/Walking 1/0: expected an array of shape \(frames, 17, 2 or 3\).*\(4, 16, 2\)"),
    "infinite": ([_pixels(), _pixels(), _pixels() * np.inf, _pixels()], "S1/Walking 1/2: expected finite numbers"),
    "normalised": ([_pixels() / 1000] * 4, "expected pixels, got numbers no larger than 0.8"),
    "scores": ([_pixels(numbers=3)] * 4, "expected confidences within 0..1"),
}


@pytest.mark.parametrize("name", BAD_2D)
def test_other_2d_is_refused_and_named(tmp_path: Path, name: str) -> None:
    bad, said = BAD_2D[name]
    path_3d, path_2d = files(tmp_path)
    save_2d(path_2d, _one(bad))
    np.savez(path_3d, positions_3d=np.array(_one(person(4)), dtype=object))
    with pytest.raises(DatasetError, match=rf"data_2d_h36m_cpn.npz.*{said}"):
        read_h36m(path_3d, path_2d, allow_pickle=True)


# DiffPose's mixtures


def components(frames: int, M: int = 5, seed: int = 0) -> NDArray[np.float32]:
    """Components (frames, 17, M, 5) in the file's units: means in pixels, weights that sum to one."""
    rng = np.random.default_rng([seed, frames, M])
    weight = rng.dirichlet(np.ones(M), (frames, 17))[..., None]
    return np.concatenate([weight, rng.uniform(100, 900, (frames, 17, M, 2)), rng.uniform(0, 0.1, (frames, 17, M, 2))], -1).astype(
        np.float32
    )


def gmm_file(path: Path, extra: int = 0) -> Path:
    views: dict[str, Any] = {}
    for (subject, action), frames in FRAMES.items():
        views.setdefault(subject, {})[action] = [components(frames + extra, seed=c) for c in range(4)]
    np.savez_compressed(path, positions_2d=np.array(views, dtype=object))
    return path


def test_only_the_means_of_a_mixture_are_normalised(tmp_path: Path) -> None:
    mixtures = read_gmm(gmm_file(tmp_path / "gmm.npz"), allow_pickle=True)
    assert {subject: list(actions) for subject, actions in mixtures.items()} == {"S1": ["Walking 1", "Eating"], "S11": ["Walking 1"]}
    for c, mixture in enumerate(mixtures["S1"]["Eating"]):
        raw = components(3, seed=c)
        assert (len(mixture), mixture.weight.dtype, mixture.mean.dtype, mixture.scale.dtype) == (3, *(np.float32,) * 3)
        np.testing.assert_array_equal(mixture.weight, raw[..., 0])
        np.testing.assert_array_equal(mixture.mean, normalise_pixels(raw[..., 1:3], IMAGE_SIZES[c]).astype(np.float32))
        np.testing.assert_array_equal(mixture.scale, raw[..., 3:])
        np.testing.assert_array_equal(mixture.distribution().covariance[..., 1, 1], raw[..., 4].astype(np.float64) ** 2)


def test_mixtures_join_the_3d(tmp_path: Path) -> None:
    path_3d, _ = files(tmp_path)
    sequences = read_h36m_gmm(path_3d, gmm_file(tmp_path / "gmm.npz", extra=2), allow_pickle=True)
    assert [(s.subject, s.action, s.camera) for s in sequences] == [(*key, name) for key in FRAMES for name in CAMERA_NAMES]
    for s in sequences:
        assert s.mixture is not None
        assert len(s) == len(s.mixture) == FRAMES[s.subject, s.action]
        heaviest = s.mixture.weight.argmax(-1)
        for frame, joint in np.ndindex(s.uv.shape[:2]):
            np.testing.assert_array_equal(s.uv[frame, joint], s.mixture.mean[frame, joint, heaviest[frame, joint]])


@pytest.mark.parametrize("pickled", [False, True])
def test_saved_mixtures_come_back(tmp_path: Path, pickled: bool) -> None:
    first = read_gmm(gmm_file(tmp_path / "gmm.npz"), allow_pickle=True)
    save_gmm(tmp_path / "again.npz", first, pickled=pickled)
    if pickled:
        # What the released code does with it: a list of cameras to index.
        assert content(tmp_path / "again.npz", "positions_2d")["S1"]["Eating"][3].shape == (3, 17, 5, 5)
    second = read_gmm(tmp_path / "again.npz", allow_pickle=pickled)
    for subject, actions in first.items():
        for action, views in actions.items():
            for a, b in zip(views, second[subject][action], strict=True):
                np.testing.assert_array_equal(a.weight, b.weight)
                np.testing.assert_array_equal(a.scale, b.scale)
                # To pixels and back in float32: a few roundings of numbers below two.
                np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=5e-7)


def test_mixtures_that_would_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    good = read_gmm(gmm_file(tmp_path / "gmm.npz"), allow_pickle=True)["S1"]["Eating"]
    bad = Mixture2D(good[0].weight * 2, good[0].mean, good[0].scale)
    for views, said in ((good[:3], "four cameras, got 3"), ([bad, *good[1:]], "sum to one")):
        with pytest.raises(DatasetError, match=said):
            save_gmm(tmp_path / "out.npz", {"S1": {"Eating": views}})
    with pytest.raises(OutputError):
        save_gmm(tmp_path / "none" / "out.npz", {"S1": {"Eating": good}}, pickled=True)
    assert [path.name for path in tmp_path.iterdir()] == ["gmm.npz"]


def _altered(index: int, value: float) -> NDArray[np.float32]:
    array = components(4)
    array[1, 2, 3, index] = value
    return array


BAD_GMM = {
    "keypoints": (_pixels(), r"expected an array of shape \(frames, 17, components, 5\).*\(4, 17, 2\).*plain 2D keypoints"),
    "three numbers": (components(4)[..., :3], r"\(4, 17, 5, 3\)"),
    "no components": (components(4)[:, :, :0], r"\(4, 17, 0, 5\)"),
    "weights": (_altered(0, 1.5), "weights that are not negative and sum to one"),
    "a negative weight": (_altered(0, -0.5), "weights that are not negative"),
    "a negative scale": (_altered(4, -0.5), "scales that are not negative, got -0.5"),
    "nan": (_altered(1, np.nan), "finite numbers"),
}


@pytest.mark.parametrize("name", BAD_GMM)
def test_other_mixtures_are_refused_and_named(tmp_path: Path, name: str) -> None:
    bad, said = BAD_GMM[name]
    np.savez(tmp_path / "gmm.npz", positions_2d=np.array(_one([components(4)] * 3 + [bad]), dtype=object))
    with pytest.raises(DatasetError, match=rf"gmm.npz: S1/Walking 1/3: .*{said}"):
        read_gmm(tmp_path / "gmm.npz", allow_pickle=True)


# Mixtures from a detector's answer


def test_detections_become_one_component_that_widens_with_doubt() -> None:
    pixels, confidence = _pixels(3), np.ones((3, 17))
    confidence[1, 4], confidence[2, 4] = 0.5, 0.0
    spoiled = pixels.copy()
    spoiled[2, 4] = np.nan
    m = mixtures_of_detections(spoiled, (1000, 1002), confidence)
    uv = normalise_pixels(pixels, (1000, 1002))
    assert (m.weight.shape, m.mean.shape, m.scale.shape) == ((3, 17, 1), (3, 17, 1, 2), (3, 17, 1, 2))
    np.testing.assert_array_equal(m.weight, np.ones((3, 17, 1)))
    surely = confidence == 1
    np.testing.assert_allclose(m.mean[surely][:, 0], uv[surely], atol=1e-6)
    np.testing.assert_allclose(m.scale[surely], SEEN, rtol=1e-6)
    np.testing.assert_allclose(m.mean[1, 4, 0], uv[1, 4], atol=1e-6)
    np.testing.assert_allclose(m.scale[1, 4, 0], np.sqrt(0.5 * SEEN**2 + 0.5 * uv[1].var(axis=0)), rtol=1e-5)
    others = np.delete(uv[2], 4, axis=0)
    np.testing.assert_allclose(m.mean[2, 4, 0], others.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(m.scale[2, 4, 0], others.std(axis=0), rtol=1e-5)
    assert (mixtures_of_detections(pixels, (1000, 1002)).scale == np.float32(SEEN)).all()
    m.distribution()


def test_detections_that_say_nothing_are_refused() -> None:
    pixels, ones = _pixels(3), np.ones((3, 17))
    holes = np.where(np.arange(17)[:, None] == 3, np.nan, pixels)
    bad: list[tuple[Any, Any, float, str]] = [
        (pixels[0], None, SEEN, r"expected pixels of shape \(frames, 17, 2\)"),
        (pixels, ones[:2], SEEN, r"confidences within 0..1 of shape \(3, 17\)"),
        (pixels, ones * 1.1, SEEN, "1.1"),
        (pixels, ones * np.nan, SEEN, "nan"),
        (holes, ones, SEEN, "expected finite pixels"),
        (pixels, ones * (np.arange(3) != 1)[:, None], SEEN, "in frame 1 no joint was seen"),
        (pixels, ones, 0.0, "expected seen"),
    ]
    for xy, confidence, seen, said in bad:
        with pytest.raises(DatasetError, match=said):
            mixtures_of_detections(xy, (1000, 1000), confidence, seen=seen)
    with pytest.raises(KeypointError):
        mixtures_of_detections(pixels, (0, 1000))


def test_a_file_of_mixtures_is_made_from_a_file_of_detections(tmp_path: Path) -> None:
    path_3d, path_2d = files(tmp_path, numbers=3)
    gmm_file_of_detections(path_2d, tmp_path / "gmm.npz", seen=0.02, allow_pickle=True)
    plain: list[Sequence] = read_h36m(path_3d, path_2d, allow_pickle=True)
    np.savez(
        tmp_path / "flat_3d.npz",
        **{f"positions_3d/{s}/{a}": pose for s, actions in content(path_3d, "positions_3d").items() for a, pose in actions.items()},
    )
    for a, b in zip(plain, read_h36m_gmm(tmp_path / "flat_3d.npz", tmp_path / "gmm.npz"), strict=True):
        np.testing.assert_allclose(a.uv, b.uv, atol=5e-7)
        assert b.mixture is not None
        assert (b.mixture.scale[:, 16] == np.float32(0.02)).all()  # confidence 1
        assert (b.mixture.scale[:, 0] > 0.05).all()  # confidence 0.5


def test_heatmaps_become_mixtures() -> None:
    column, row = np.meshgrid(np.arange(24.0), np.arange(32.0))
    heatmaps = np.stack([np.exp(-((column - 8 - j / 4) ** 2 + (row - 12) ** 2) / (2 * 2.0**2)) for j in range(17)])[None]
    m = mixtures_of_heatmaps(heatmaps, [[10.0, 0.0, 100.0], [0.0, 10.0, 50.0]], (1000, 1000), components=1)
    pixels = np.stack([100 + 10 * (8 + np.arange(17) / 4), np.full(17, 170.0)], -1)
    # The fit works on a grid of 10-pixel steps, cut off at its border.
    np.testing.assert_allclose(denormalise(m.mean[0, :, 0], (1000, 1000)), pixels, atol=1.0)
    np.testing.assert_allclose(m.scale[0, :, 0], 2.0 * 10 * 2 / 1000, rtol=0.05)
