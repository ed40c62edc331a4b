"""Recorded trajectories to quantisation ranges, and what lower precision does to the poses."""

from diffpose_edge.extras import require

require("onnx", "onnxruntime", "onnx_ir", "torch")
