"""From a video to keypoints: frames by PyAV, landmarks by MediaPipe in a process of its own. Needs the ``detector`` extra."""

from __future__ import annotations

from diffpose_edge.detector.detected_clip import DetectedClip, detect_clip
from diffpose_edge.detector.environment import installed_python, make_environment
from diffpose_edge.detector.mediapipe_detector import MediaPipeDetector
from diffpose_edge.detector.video_file import VideoFile, VideoFrame
from diffpose_edge.detector.video_pictures import VideoPictures

__all__ = [
    "DetectedClip",
    "MediaPipeDetector",
    "VideoFile",
    "VideoFrame",
    "VideoPictures",
    "detect_clip",
    "installed_python",
    "make_environment",
]
