"""What the robot imports: a bundle, 2D keypoints in, 3D poses out. numpy and one backend, never PyTorch or onnx."""

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.estimate import PoseEstimate, Timings
from diffpose_edge.runtime.pose_runtime import PoseRuntime
from diffpose_edge.runtime.video_stream import VideoStream

__all__ = ["DiffPoseEdgeError", "PoseEstimate", "PoseRuntime", "Timings", "VideoStream"]
