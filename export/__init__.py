"""From a PyTorch checkpoint to a bundle of ONNX graphs, and the proof that they compute the same."""

from diffpose_edge.extras import require

require("torch", "onnx", "onnxscript", "onnxruntime")

from diffpose_edge.export.bundle_export import ExportReport, export_bundle  # noqa: E402

__all__ = ["ExportReport", "export_bundle"]
