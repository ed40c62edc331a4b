"""Traces a PyTorch module to a clean ONNX graph of opset 17, and proves it well-formed."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

from diffpose_edge.errors import ExportError
from diffpose_edge.export.graph_passes import drop_provenance, hide_outputs, lower_to_opset17, name_linear_weights

# The exporter's native opset: nothing older is written by it, so the graph is lowered afterwards by our own pass.
EXPORTER_OPSET = 18
# The IR version that belongs to opset 17: older TensorRT and ONNX Runtime refuse newer ones.
IR_VERSION = 8

EXPLAINED_WARNINGS = {
    "torchvision is not installed": "the exporter looks for operators of a package that these networks do not use",
    "isinstance(treespec, LeafSpec)": "PyTorch calls a deprecated helper of its own while flattening inputs",
}


@dataclass(frozen=True)
class TracedGraph:
    """An ONNX model and what was said while it was made.

    ``taps`` are values inside the graph, named after the layers whose outputs they are; ``warnings`` are those that no
    entry of EXPLAINED_WARNINGS accounts for.
    """

    model: onnx.ModelProto
    taps: tuple[str, ...]
    warnings: tuple[str, ...]


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def _listening(messages: _Messages) -> Iterator[None]:
    """Collect everything that the exporter logs, warns or prints, instead of letting it pass on to the user."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    propagated = [logger.propagate for logger in loggers]
    handlers = [logger.handlers[:] for logger in loggers]
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        for logger in loggers:
            logger.handlers = [messages]
            logger.propagate = False
        try:
            yield
        finally:
            for logger, propagate, old in zip(loggers, propagated, handlers, strict=True):
                logger.handlers, logger.propagate = old, propagate
            messages.texts += [str(w.message) for w in caught]


def onnx_from_module(
    module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], taps: Sequence[str] = (), name: str = "graph"
) -> TracedGraph:
    """Trace ``module`` at the shapes of ``inputs`` and return its graph in opset 17.

    ``module`` must return ``len(outputs)`` results followed by one per tap. The taps keep their names inside the graph
    but are not outputs of it. The result passes ``onnx.checker`` with full, strict shape inference; every shape in it
    is static. Raises ExportError when the graph cannot be written in opset 17.
    """
    messages = _Messages()
    with _listening(messages), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=EXPORTER_OPSET,
            input_names=list(inputs),
            output_names=[*outputs, *taps],
            verbose=False,
        )
    assert program is not None
    ir = program.model
    hide_outputs(ir, keep=len(outputs))
    lower_to_opset17(ir)
    drop_provenance(ir)
    name_linear_weights(ir)
    ir.graph.name = name
    ir.ir_version = IR_VERSION
    model = onnx_ir.to_proto(ir)
    check_model(model)
    inside = {value for node in model.graph.node for value in node.output}
    lost = [tap for tap in taps if tap not in inside]
    if lost:
        raise ExportError(f"the exporter optimised away the layer outputs {lost} of {name}; they are needed for verification")
    unexplained = [text for text in messages.texts if not any(known in text for known in EXPLAINED_WARNINGS)]
    return TracedGraph(model, tuple(taps), tuple(dict.fromkeys(unexplained)))


def check_model(model: onnx.ModelProto) -> None:
    """Run onnx.checker with full shape inference, and require static shapes and no float64 or int64 at the border."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        tensor = value.type.tensor_type
        if any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise ExportError(f"value {value.name} has a dynamic shape; every shape must be fixed at export")
        if tensor.elem_type == onnx.TensorProto.DOUBLE:
            raise ExportError(f"value {value.name} is float64; a constant was not rounded to float32")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ExportError(f"{value.name} is not float32: TensorRT versions differ in how they take other types")


def with_taps_as_outputs(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` that also outputs the named values inside it, for comparison layer by layer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    known = {value.name: value for value in inferred.graph.value_info}
    for tap in taps:
        if tap not in known:
            raise ExportError(f"the graph has no value named {tap}; it was not exported by this version")
        copy.graph.output.append(known[tap])
    return copy
