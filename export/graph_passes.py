"""Small, named transformations of an ONNX graph; each changes the model in place and keeps its function."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from diffpose_edge.errors import ExportError


def hide_outputs(model: ir.Model, keep: int) -> None:
    """Keep only the first ``keep`` outputs of the graph; the others stay inside it under their names."""
    while len(model.graph.outputs) > keep:
        model.graph.outputs.pop()


def drop_provenance(model: ir.Model) -> None:
    """Remove what the exporter notes about where each node came from: source lines with paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = None
    model.graph.doc_string = None
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()


def lower_to_opset17(model: ir.Model) -> None:
    """Rewrite a graph of opset 18 in opset 17.

    Of the operators whose definition changed in between, two occur in these graphs. ReduceMean took its axes as an
    attribute before 18; Split divided evenly by the number of its outputs, which 18 spells out. Raises ExportError for
    any other operator that changed, because its meaning would not be known to be the same.
    """
    present = model.opset_imports.get("")
    if present != 18:
        raise ExportError(f"expected a graph of opset 18 to lower to 17, got opset {present}")
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            raise ExportError(f"node {node.name} is of the domain {node.domain}: TensorRT would not read it")
        if onnx.defs.get_schema(node.op_type, 18).since_version < 18:
            continue
        if node.op_type == "ReduceMean":
            _axes_to_attribute(node)
        elif node.op_type == "Split":
            node.attributes.pop("num_outputs", None)
        else:
            raise ExportError(f"operator {node.op_type} (node {node.name}) changed in opset 18: teach lower_to_opset17 its older form")
    model.opset_imports[""] = 17
    _remove_unused_initialisers(model)


def _axes_to_attribute(node: ir.Node) -> None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None or axes.const_value is None:
        raise ExportError(f"ReduceMean {node.name} has axes that are not a constant; opset 17 cannot express it")
    # It says what no axes at all mean; here there are some.
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes["axes"] = ir.AttrInt64s("axes", [int(a) for a in axes.const_value.numpy().reshape(-1)])
    node.resize_inputs(1)


def _remove_unused_initialisers(model: ir.Model) -> None:
    initialisers = model.graph.initializers
    for name in [name for name, value in initialisers.items() if not value.uses() and not value.is_graph_output()]:
        del initialisers[name]


def name_linear_weights(model: ir.Model) -> None:
    """Name the weights of linear layers after their biases, "x.bias" giving "x.weight".

    The exporter transposes them into constants with numbers for names; a report on precision names layers.
    """
    for node in model.graph:
        if node.op_type != "MatMul" or (weight := node.inputs[1]) is None or weight.const_value is None or "." in (weight.name or ""):
            continue
        adds = [use.node for use in node.outputs[0].uses() if use.node.op_type == "Add"]
        biases = [value.name for add in adds for value in add.inputs if value is not None and (value.name or "").endswith(".bias")]
        if len(biases) == 1 and biases[0] is not None and len(weight.uses()) == 1:
            weight.name = f"{biases[0].removesuffix('bias')}weight"
