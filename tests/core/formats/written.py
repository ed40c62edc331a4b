"""Tiny files as detectors write them, made by hand field by field, so that a reader is not tested against our own writer.

The person stands upright and faces the camera, so their left is on the image's right; an image is 1024 wide and 512 high, so that
normalising whole pixels is exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = (1024.0, 512.0)
AT = {
    "nose": (512, 100), "left_eye": (518, 94), "right_eye": (506, 94), "left_ear": (528, 96), "right_ear": (496, 96),
    "left_shoulder": (560, 160), "left_elbow": (576, 220), "left_wrist": (584, 280),
    "right_shoulder": (464, 160), "right_elbow": (448, 220), "right_wrist": (440, 280),
    "left_hip": (540, 300), "left_knee": (544, 380), "left_ankle": (548, 460),
    "right_hip": (484, 300), "right_knee": (480, 380), "right_ankle": (476, 460),
    # Where only some detectors look; a little off the means of the others, to tell them apart.
    "neck_base": (514, 158), "mid_hip": (510, 302), "head_top": (513, 60),
}  # fmt: skip
# The order of COCO's keypoints, written out again: cocodataset.org, person_keypoints, categories[0].keypoints.
COCO_ORDER = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip
# OpenPose, doc/02_output.md, the first 19 of BODY_25: Nose, Neck, RShoulder, …; the other six are toes and heels.
OPENPOSE_ORDER = [
    "nose", "neck_base", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "mid_hip",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
]  # fmt: skip
# Halpe-FullBody's README: COCO's 17, Head, Neck, Hip, six of the feet.
HALPE_ORDER = [*COCO_ORDER, "head_top", "neck_base", "mid_hip"]


def xyc(order: list[str], count: int, confidence: float = 0.5, shift: float = 0.0) -> NDArray[np.float64]:
    """The person as (count, 3); keypoints beyond ``order`` are at 1, 1."""
    points = [(*AT[name], confidence) for name in order] + [(1.0, 1.0, confidence)] * (count - len(order))
    return np.array(points, float) + [shift, 0, 0]


def put(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def openpose_person(values: Any, person_id: int = -1) -> dict[str, Any]:
    """As OpenPose 1.7 writes a person: with empty lists for what it was not asked for."""
    others = ("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d", "face_keypoints_3d")
    return {"person_id": [person_id], "pose_keypoints_2d": np.ravel(values).tolist(), **{name: [] for name in others}}


def openpose(folder: Path, frames: int = 3) -> Path:
    """``--write_json``: a file for each frame; nobody in frame 1; in frame 2 the left ankle was not found."""
    for i in range(frames):
        person = xyc(OPENPOSE_ORDER, 25, shift=i)
        if i == 2:
            person[14] = 0.0
        people = [] if i == 1 else [openpose_person(person)]
        put(folder / f"walk_{i:012d}_keypoints.json", {"version": 1.3, "people": people})
    return folder


def alphapose(path: Path, count: int = 17, tracks: tuple[int, ...] = (7,)) -> Path:
    """``alphapose-results.json`` of frames 0 and 2: in frame 1 nobody was found, so it is not there. Tracked (``idx`` a number)."""
    order = COCO_ORDER if count == 17 else HALPE_ORDER
    people = [
        {
            "image_id": f"{frame}.jpg",
            "category_id": 1,
            "keypoints": xyc(order, count, shift=100.0 * n + frame).ravel().tolist(),
            "score": 2.5 - n,
            "box": [440.0, 96.0, 144.0, 364.0],
            "idx": track,
        }
        for frame in (0, 2)
        for n, track in enumerate(tracks)
    ]
    return put(path, people)


def coco_results(path: Path) -> Path:
    """The results format of cocodataset.org: v of 2, 1 and 0 among the confidences."""
    keypoints = xyc(COCO_ORDER, 17)
    keypoints[0, 2], keypoints[3, 2], keypoints[15] = 2, 1, 0
    return put(path, [{"image_id": i, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": 0.75} for i in (4, 5)])


def mmpose_instance(shift: float = 0.0, count: int = 17, score: float = 0.5) -> dict[str, Any]:
    """An instance of split_instances: ``bbox`` is a list in a list, since the code ends that line with a comma."""
    person = xyc(COCO_ORDER, count, score, shift)
    return {
        "keypoints": person[:, :2].tolist(),
        "keypoint_scores": person[:, 2].tolist(),
        "bbox": [[440.0, 96.0, 584.0, 460.0]],
        "bbox_score": 0.9,
    }


def mmpose(path: Path, form: str = "video") -> Path:
    """What the inferencer writes for a video or an image, and what the demo writes for each."""
    video = [{"frame_id": i, "instances": [] if i == 1 else [mmpose_instance(i)]} for i in range(3)]
    meta = {"dataset_name": "coco", "num_keypoints": 17, "sigmas": {"__ndarray__": [0.026], "dtype": "float32", "shape": [1]}}
    documents: dict[str, Any] = {
        "video": video,
        "image": [mmpose_instance()],
        # The demo counts frames from 1.
        "demo video": {"meta_info": meta, "instance_info": [{**frame, "frame_id": i} for i, frame in enumerate(video, 1)]},
        "demo image": {"meta_info": meta, "instance_info": [mmpose_instance()]},
    }
    return put(path, documents[form])


def videopose3d(path: Path, videos: tuple[str, ...] = ("walk.mp4",), layout: str = "coco") -> Path:
    """As prepare_data_2d_custom.py saves it: numpy pickles both dictionaries."""
    frames = np.stack([xyc(COCO_ORDER, 17, shift=i)[:, :2] for i in range(3)]).astype("float32")
    positions: Any = {video: {"custom": [frames + 10 * n]} for n, video in enumerate(videos)}
    metadata: Any = {
        "layout_name": layout,
        "num_joints": 17,
        "keypoints_symmetry": [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]],
        "video_metadata": {video: {"w": 1024, "h": 512} for video in videos},
    }
    np.savez_compressed(path, positions_2d=positions, metadata=metadata)
    return path


def coco17(path: Path, **more: Any) -> Path:
    np.savez(path, keypoints=np.stack([xyc(COCO_ORDER, 17, shift=i) for i in range(3)]), layout="coco17", image_size=np.array(SIZE), **more)
    return path


def mediapipe33(path: Path) -> Path:
    """As the shipped street_walk_mediapipe33.npz: NaN throughout a frame in which nobody was found."""
    keypoints = np.full((3, 33, 3), 0.5, np.float32)
    # MediaPipe Pose Landmarker: 0 nose, 7 and 8 ears, 11 to 16 arms, 23 to 28 legs, left before right.
    names = {0: "nose", 7: "left_ear", 8: "right_ear"}
    for first, parts in ((11, ("shoulder", "elbow", "wrist")), (23, ("hip", "knee", "ankle"))):
        names |= {first + 2 * i + side: f"{('left', 'right')[side]}_{part}" for i, part in enumerate(parts) for side in (0, 1)}
    for i, name in names.items():
        keypoints[:, i, :2] = AT[name]
    keypoints[1] = np.nan
    np.savez(path, keypoints=keypoints, image_size=np.array(SIZE), fps=np.array(25.0))
    return path


def h36m17(path: Path) -> Path:
    keypoints = np.random.default_rng(0).uniform(50, 450, (3, 17, 3))
    keypoints[..., 2] = 0.5
    np.savez(path, keypoints=keypoints, image_size=np.array(SIZE), fps=np.array(50.0))
    return path


# A file or folder of each format, by the format's name.
FILES = {
    "h36m17": lambda folder: h36m17(folder / "h36m.npz"),
    "coco17": lambda folder: coco17(folder / "coco.npz"),
    "mediapipe33": lambda folder: mediapipe33(folder / "mediapipe.npz"),
    "videopose3d": lambda folder: videopose3d(folder / "data_2d_custom_walk.npz"),
    "openpose": lambda folder: openpose(folder / "openpose"),
    "alphapose": lambda folder: alphapose(folder / "alphapose-results.json"),
    "coco-results": lambda folder: coco_results(folder / "results.json"),
    "mmpose": lambda folder: mmpose(folder / "mmpose.json"),
}
