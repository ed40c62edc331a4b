"""From a PyTorch checkpoint to a bundle of ONNX graphs, the proof that they compute the same, and engines of them.

``export_bundle`` needs PyTorch and is imported when it is asked for; lower precisions, the linter and the engine builder do
not, and work where PyTorch is not: on a Jetson, say.
"""

from typing import TYPE_CHECKING, Any

from diffpose_edge.extras import require

if TYPE_CHECKING:
    from diffpose_edge.export.bundle_export import ExportReport, export_bundle

__all__ = ["ExportReport", "export_bundle"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", "onnx", "onnxscript", "onnxruntime")
    from diffpose_edge.export import bundle_export

    return getattr(bundle_export, name)
