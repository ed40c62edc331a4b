"""Every target by name. Each module is imported when one of its targets is asked for: some need PyTorch, some rosbags."""

from __future__ import annotations

from importlib import import_module

from tests.fuzz.target import Target

NAMES = {
    "of_bundles": ("manifest", "schedules", "timings", "engine_record"),
    "of_keypoints": (
        "openpose", "alphapose", "coco_results", "mmpose", "mmpose_folder", "npz_clip", "videopose3d", "plain_pickle", "keypoints_npz",
        "camera_yaml", "camera_json", "evaluation", "viewer_result",
    ),
    "of_poses": ("jsonl", "csv", "bvh", "trc"),
    "of_checkpoints": ("calibration", "checkpoint_zip", "checkpoint_legacy", "safetensors_denoiser", "safetensors_context", "dataset"),
    "of_messages": ("cdr_pose_array", "cdr_camera_info", "dds", "skeleton2d", "pose_array_numbers", "bag_mcap"),
}  # fmt: skip
ALL = tuple(name for names in NAMES.values() for name in names)


def target_named(name: str) -> Target:
    """Return a target. Raises KeyError for a name that none has."""
    module = {each: module for module, names in NAMES.items() for each in names}[name]
    found: dict[str, Target] = {target.name: target for target in import_module(f"tests.fuzz.{module}").TARGETS}
    assert tuple(found) == NAMES[module], f"{module}.TARGETS and targets.NAMES differ"
    return found[name]
