"""Files of 2D keypoints in, and of 3D poses out, by name. docs/formats.md describes them all; needs numpy alone."""

from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.person_clip import BEST, PersonClip, open_clip, person_clip
from diffpose_edge.formats.pose_files import POSE_FORMATS, read_poses, write_poses
from diffpose_edge.formats.poses import PoseSequence
from diffpose_edge.formats.registry import KEYPOINT_FORMATS, detect_format, read_detections, write_detections

__all__ = [
    "BEST",
    "KEYPOINT_FORMATS",
    "POSE_FORMATS",
    "Detections",
    "Frame",
    "Person",
    "PersonClip",
    "PoseSequence",
    "detect_format",
    "open_clip",
    "person_clip",
    "read_detections",
    "read_poses",
    "write_detections",
    "write_poses",
]
