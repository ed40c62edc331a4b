"""What the robot imports: a bundle, 2D keypoints in, 3D poses out. numpy and one backend, never PyTorch or onnx."""

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.counters import RuntimeCounters
from diffpose_edge.runtime.estimate import PoseEstimate, Timings
from diffpose_edge.runtime.one_euro import OneEuro
from diffpose_edge.runtime.pose_runtime import PoseRuntime
from diffpose_edge.runtime.pose_stream import PoseStream
from diffpose_edge.runtime.stamps import StreamCounters
from diffpose_edge.runtime.tracker import Tracking
from diffpose_edge.runtime.video_stream import VideoStream

__all__ = [
    "DiffPoseEdgeError",
    "OneEuro",
    "PoseEstimate",
    "PoseRuntime",
    "PoseStream",
    "RuntimeCounters",
    "StreamCounters",
    "Timings",
    "Tracking",
    "VideoStream",
]
