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
from diffpose_edge.export.onnx_models import check_model

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
