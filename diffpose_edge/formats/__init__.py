"""Files of 2D keypoints, by name. Needs numpy alone."""

from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.person_clip import BEST, PersonClip, open_clip, person_clip
from diffpose_edge.formats.registry import KEYPOINT_FORMATS, detect_format, read_detections, write_detections

__all__ = [
    "BEST",
    "KEYPOINT_FORMATS",
    "Detections",
    "Frame",
    "Person",
    "PersonClip",
    "detect_format",
    "open_clip",
    "person_clip",
    "read_detections",
    "write_detections",
]
