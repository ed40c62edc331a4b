"""How many kernels a GPU launches for one run of a graph, counted in a TensorRT-RTX plan or estimated from the graph; and how many
operators ONNX Runtime calls.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from diffpose_edge.benchmarks.graph_cost import GraphCost, graph_cost
from diffpose_edge.extras import is_installed, require

# Nodes that a compiler always joins with a neighbour.
_JOINED = ("Cast", "QuantizeLinear")
# Of the other nodes that are no matmul, this share is a launch of its own. In the plans that TensorRT-RTX 1.7 makes of the project's own
# graphs, released size and shipped, FP32, FP16 and INT8, it is 0.31 to 0.52; INT8 graphs of tiny networks have more.
_SHARE = 0.41
# How far the estimate may be off: tests/benchmarks/test_launches.py holds it against counts.
ESTIMATE_ERROR = 0.25


@dataclass(frozen=True)
class Launches:
    """Kernels of one run: ``matmuls`` (an attention fused into one kernel among them), and all the ``others``. ``counted``: in a
    plan, rather than estimated; ``plan_bytes`` is that plan's size.
    """

    matmuls: int
    others: int
    counted: bool
    plan_bytes: int | None = None

    @property
    def number(self) -> int:
        """All launches."""
        return self.matmuls + self.others

    @property
    def bounds(self) -> tuple[float, float]:
        """Fewest and most launches that it may be."""
        error = 0.0 if self.counted else ESTIMATE_ERROR
        return self.number * (1 - error), self.number * (1 + error)


def launches_of(content: bytes, name: str = "the graph") -> Launches:
    """Return the launches of an ONNX file: counted where TensorRT-RTX is installed, else estimated.

    Raises ExportError when TensorRT-RTX refuses the graph, DiffPoseEdgeError when its shapes are not known.
    """
    return counted_launches(content, name) if is_installed("tensorrt_rtx") and is_installed("polygraphy") else estimated_launches(content)


def counted_launches(content: bytes, name: str = "the graph") -> Launches:
    """Build the graph with TensorRT-RTX, which needs no GPU, and count. Raises ExportError, MissingPackage."""
    from diffpose_edge.export.tensorrt_rtx import built

    report = built(content, name)
    matmuls = sum(launch.is_matmul or launch.is_attention for launch in report.launches)
    return Launches(matmuls, len(report.launches) - matmuls, True, report.plan_bytes)


def estimated_launches(content: bytes) -> Launches:
    """Estimate from the graph alone: a launch per matmul, in half precision one per attention, and a share of the other nodes."""
    return estimate_of(graph_cost(onnx.load_from_string(content)))


def estimate_of(cost: GraphCost) -> Launches:
    """Estimate from what a graph costs; see :func:`estimated_launches`."""
    matmuls = sum(bool(work.kind) for work in cost.work)
    softmaxes = sum(work.operator == "Softmax" for work in cost.work)
    rest = sum(not work.kind and work.operator not in (*_JOINED, "Softmax") for work in cost.work)
    if "float16" in cost.matmul_flops_of:
        # Both matmuls of an attention and the softmax between them are one kernel.
        return Launches(matmuls - softmaxes, round(_SHARE * rest), False)
    return Launches(matmuls, round(_SHARE * (rest + softmaxes)), False)


def operators_of(content: bytes) -> int:
    """Return how many operators ONNX Runtime's CPU provider is left with, after its own optimisations. Raises MissingPackage."""
    require("onnx", "onnxruntime")
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # As the runtime has it: Q/DQ are computed as they stand.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return len(onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node)
