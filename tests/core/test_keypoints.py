"""2D keypoints: the normalisation, and a KeypointError that names what came for everything no detector means."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import MOST_NORMALISED, Keypoints, checked_keypoints, denormalise, load_keypoints, normalise_pixels

SIZE = (1280.0, 720.0)


def _uv(frames: int = 2, numbers: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.1, 0.9, (frames, 17, numbers)).astype(np.float32)


def _with(value: Any, at: tuple[int, ...], numbers: int = 2) -> NDArray[np.float32]:
    uv = _uv(numbers=numbers)
    uv[at] = value
    return uv


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_pixels_become_u_2x_over_w_minus_1_and_v_2y_over_w_minus_h_over_w() -> None:
    corners = normalise_pixels([[0, 0], [1280, 720], [640, 360], [320, 0]], SIZE)
    np.testing.assert_array_equal(corners, [[-1, -0.5625], [1, 0.5625], [0, 0], [-0.5, -0.5625]])


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), st.sampled_from([(), (3,), (2, 17)]))
@settings(deadline=None, max_examples=60)
def test_denormalising_undoes_normalising(w: float, h: float, x: float, y: float, leading: tuple[int, ...]) -> None:
    xy = np.broadcast_to([x, y], (*leading, 2))
    again = denormalise(normalise_pixels(xy, (w, h)), (w, h))
    assert again.shape == xy.shape
    # A few roundings in float64 of numbers no larger than these.
    assert np.abs(again - xy).max() <= 4 * np.spacing(max(abs(x), abs(y), w, h))


def test_good_keypoints_come_back_as_float32_with_full_confidence() -> None:
    k = checked_keypoints(_uv().astype(np.float64).tolist())
    assert (k.uv.dtype, k.confidence.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(k.uv, _uv())
    np.testing.assert_array_equal(k.confidence, np.ones((2, 17)))
    assert len(k) == 2


def test_the_confidence_may_be_the_third_number_or_an_array_of_its_own() -> None:
    both = _uv(numbers=3)
    for k in (checked_keypoints(both), checked_keypoints(both[..., :2], both[..., 2])):
        np.testing.assert_array_equal(k.uv, both[..., :2])
        np.testing.assert_array_equal(k.confidence, both[..., 2])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_any_coordinate_of_a_joint_with_confidence_0_is_accepted(value: float) -> None:
    both = _uv(numbers=3)
    both[0, 4] = (value, value, 0.0)
    k = checked_keypoints(both)
    assert k.confidence[0, 4] == 0
    assert (np.delete(k.confidence[0], 4) > 0).all()


def test_windows_have_one_axis_more() -> None:
    window = _uv(9)[None]
    assert checked_keypoints(window, window=True).uv.shape == (1, 9, 17, 2)
    with pytest.raises(KeypointError, match=r"expected keypoints of shape \(B, F, 17, 2\).*got \(9, 17, 2\)"):
        checked_keypoints(window[0], window=True)


BAD_ARRAYS = {
    "rank 1": ([1.0, 2.0], r"\(B, 17, 2\).*got \(2,\)"),
    "rank 2": (_uv()[0], r"got \(17, 2\)"),
    "rank 4": (_uv()[None], r"got \(1, 2, 17, 2\)"),
    "a number": (1.0, r"got \(\)"),
    "nothing": (None, r"got \(\)|NoneType"),
    "16 joints": (_uv()[:, :16], "expected 17 joints .*got 16"),
    "18 joints": (np.zeros((1, 18, 2)), "got 18"),
    "33 joints": (np.zeros((1, 33, 2)), "got 33.*h36m17_from_mediapipe33"),
    "1 number": (_uv()[..., :1], r"got \(2, 17, 1\)"),
    "4 numbers": (np.zeros((1, 17, 4)), r"got \(1, 17, 4\)"),
    "no frames": (np.zeros((0, 17, 2)), r"\(0, 17, 2\)"),
    "nan": (_with(np.nan, (1, 3, 0)), r"\[1, 3\] \(right_foot\) is \[nan"),
    "infinity": (_with(np.inf, (0, 16, 1)), r"\[0, 16\] \(right_wrist\) is .*inf"),
    "minus infinity": (_with(-np.inf, (0, 0, 1)), r"\[0, 0\] \(hip\) is .*-inf"),
    "beyond float32": (_uv().astype(np.float64) * 1e39, "inf"),
    "nan with some confidence": (_with((np.nan, 0.0, 0.01), (1, 3), 3), r"\[1, 3\] \(right_foot\)"),
    "confidence above one": (_with(1.5, (1, 2, 2), 3), r"\[1, 2\] \(right_knee\) is 1.5: expected a number within 0..1"),
    "confidence below zero": (_with(-0.5, (1, 2, 2), 3), r"\[1, 2\] \(right_knee\) is -0.5"),
    "confidence nan": (_with(np.nan, (0, 2, 2), 3), r"\[0, 2\] \(right_knee\) is nan"),
    "pixels": (_uv() * 1000, "Are they pixels.*image_size"),
    "just beyond the limit": (_with(MOST_NORMALISED * 1.001, (0, 0, 0)), "10.01"),
    "text": ("street.npz", "array of numbers, got str"),
    "words": (np.full((1, 17, 2), "left"), "array of numbers"),
    "numbers as words": (np.full((1, 17, 2), "0.5"), "numbers"),
    "bytes": (b"\0" * 136, "array of numbers"),
    "objects": (np.full((1, 17, 2), object()), "array of numbers"),
    "none as numbers": (np.full((1, 17, 2), None), "nan|array of numbers"),
    "complex": (np.full((1, 17, 2), 0.5j), "numbers"),
    "ragged": ([[0.1, 0.2], [0.1]], "array of numbers, got list"),
    "a dictionary": ({"keypoints": 1}, "got dict"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_keypoints_are_refused_and_named(name: str) -> None:
    bad, said = BAD_ARRAYS[name]
    with pytest.raises(KeypointError, match=said):
        checked_keypoints(bad)


@pytest.mark.parametrize(
    "bad", [np.ones(17), np.ones((2, 16)), np.ones((2, 17, 1)), 1.0, "high", [[1.0], [1.0, 1.0]], np.full((2, 17), object())]
)
def test_a_confidence_that_is_not_one_number_for_each_joint_is_refused(bad: Any) -> None:
    with pytest.raises(KeypointError, match="confidence"):
        checked_keypoints(_uv(), bad)


def test_a_confidence_that_comes_twice_is_refused() -> None:
    with pytest.raises(KeypointError, match="twice"):
        checked_keypoints(_uv(numbers=3), np.ones((2, 17)))


BAD_SIZES = [(0, 720), (1280, 0), (-1280, 720), (np.nan, 720), (np.inf, 720), (1280,), (1280, 720, 3), ("wide", "high"), 1280, None]


@pytest.mark.parametrize("size", BAD_SIZES, ids=str)
def test_a_bad_image_size_is_refused_and_named(size: Any) -> None:
    with pytest.raises(KeypointError, match="image_size"):
        normalise_pixels(_uv(), size)


@pytest.mark.parametrize("size", [(0, 720), (np.nan, 720), (1280, 720, 3), 1280, ("a", "b"), [[1280, 720]]], ids=str)
def test_a_bad_image_size_in_a_file_is_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(KeypointError, match="image_size"):
        load_keypoints(_npz(tmp_path / "clip.npz", keypoints=_uv() * 700, image_size=np.array(size)))


@pytest.mark.parametrize("numbers", [2, 3])
def test_pixels_with_image_size_equal_normalised_keypoints(tmp_path: Path, numbers: int) -> None:
    both = _uv(numbers=numbers).astype(np.float64)
    pixels = both.copy()
    pixels[..., :2] *= SIZE
    normalised = both.copy()
    normalised[..., :2] = normalise_pixels(pixels[..., :2], SIZE)
    a = load_keypoints(_npz(tmp_path / "pixels.npz", keypoints=pixels, image_size=np.array(SIZE)))
    b = load_keypoints(_npz(tmp_path / "normalised.npz", keypoints=normalised))
    for k in (a, b):
        assert isinstance(k, Keypoints)
        np.testing.assert_array_equal(k.uv, normalised[..., :2].astype(np.float32))
        np.testing.assert_array_equal(k.confidence, np.ones((2, 17)) if numbers == 2 else both[..., 2].astype(np.float32))


def test_a_file_may_hold_the_confidence_as_an_array(tmp_path: Path) -> None:
    k = load_keypoints(_npz(tmp_path / "clip.npz", keypoints=_uv(), confidence=np.full((2, 17), 0.5)))
    np.testing.assert_array_equal(k.confidence, np.full((2, 17), 0.5))


def test_pixels_without_image_size_and_what_else_is_wrong_inside_a_file_names_the_file(tmp_path: Path) -> None:
    for array, said in ((_uv() * 700, "Are they pixels"), (_uv()[:, :16], "got 16"), (_uv()[0], r"\(17, 2\)"), (np.full(3, "x"), "<U1")):
        with pytest.raises(KeypointError, match=rf"clip.npz.*{said}"):
            load_keypoints(_npz(tmp_path / "clip.npz", keypoints=array))


def _write_bad_file(name: str, path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, keypoints=_uv(50))
    good = buffer.getvalue()
    if name == "pickled objects":
        np.savez(path, keypoints=np.array([{"a": 1}, None], dtype=object))
    elif name == "pickle":
        path.write_bytes(pickle.dumps({"keypoints": 1}))
    elif name == "npy":
        with path.open("wb") as file:
            np.save(file, _uv())
    elif name == "other names":
        np.savez(path, poses=_uv())
    elif name == "entry that is no array":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("keypoints.npy", b"not an array")
    elif name == "damaged compression":
        path.write_bytes(good[:200] + bytes(b ^ 0xFF for b in good[200:260]) + good[260:])
    elif name == "encrypted":
        flags = good.index(b"PK\x01\x02") + 8
        path.write_bytes(good[:flags] + bytes([good[flags] | 1]) + good[flags + 1 :])
    elif name == "folder":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"frame,joint,x,y\n0,0,1,2\n", "truncated": good[: len(good) // 2], "end cut": good[:-1]}[name]
        )


BAD_FILES = {
    "missing": "no keypoint file",
    "folder": "cannot be read",
    "empty": "cannot be read",
    "text": "cannot be read",
    "pickle": "cannot be read",
    "pickled objects": "Object arrays|pickle",
    "npy": "single array.*npz",
    "truncated": "cannot be read",
    "end cut": "cannot be read",
    "damaged compression": "cannot be read",
    "encrypted": "cannot be read",
    "other names": "no array 'keypoints'; it has: poses",
    "entry that is no array": "keypoints",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "clip.npz"
    _write_bad_file(name, path)
    with pytest.raises(KeypointError, match=rf"clip.npz.*{BAD_FILES[name]}|{BAD_FILES[name]}.*clip.npz"):
        load_keypoints(path)


@pytest.mark.parametrize("frames", [10**13, 10**30])
def test_a_file_that_claims_more_than_memory_holds_is_refused(tmp_path: Path, frames: int) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (frames, 17, 2)})
    with zipfile.ZipFile(tmp_path / "clip.npz", "w") as archive:
        archive.writestr("keypoints.npy", header.getvalue())
    with pytest.raises(KeypointError, match=r"clip.npz"):
        load_keypoints(tmp_path / "clip.npz")
