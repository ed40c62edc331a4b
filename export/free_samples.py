"""Lets a graph for the CPU take any number of samples: a pass over a denoiser step in row form.

A runtime can then give each core a part of the samples and walk all steps of the parts side by side, from one graph: at these sizes
that is faster than cores that share every matmul.
"""

from __future__ import annotations

import onnx_ir as ir

from diffpose_edge.errors import ExportError
from diffpose_edge.export.row_form import operand, shape_of, whole_numbers
from diffpose_edge.manifest import SAMPLES


def free_samples(model: ir.Model) -> int:
    """Rewrite a step in row form in place so that x (P n, 17, 5) may have any number n of samples; return how many nodes changed.

    The number of people P stays. Raises ExportError for a graph whose shapes are not those of a step, or that was laid out for one
    sample of one person: joints and samples are not exchanged in it, nor convolutions rewritten.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    samples = shape_of(inputs["x"])[0]
    persons = shape_of(inputs["feature"])[0] if "feature" in inputs else 1
    if samples == 1:
        raise ExportError("a step for a single sample cannot be freed: lay it out for two or more")
    changed, each = 0, None
    for node in list(model.graph):
        if node.op_type == "Reshape":
            changed += _infer_rows(model, node)
        elif node.op_type == "Expand":
            if shape_of(node.outputs[0])[:-1] == (1, samples) and shape_of(operand(node, 0))[:-1] == (1, 1):  # a row for each sample
                each = each or _shape_of_rows(model, node, inputs["x"])
                node.replace_input_with(1, each)
            else:
                _expand_to_samples(model, node, inputs["x"], samples, persons)
            changed += 1
    for value in (v for node in model.graph for v in node.outputs):
        if not value.is_graph_output():
            value.shape = None  # not known any more
    for value in (*model.graph.inputs, *model.graph.outputs):
        dims = shape_of(value)
        if len(dims) == 3 and value.name != "feature":
            value.shape = ir.Shape([SAMPLES, *dims[1:]])
    model.metadata_props[SAMPLES] = str(samples)
    return changed


def _infer_rows(model: ir.Model, node: ir.Node) -> bool:
    """Let a Reshape infer its first dimension, unless it infers another; tell whether it changed. Of what is in rows that is the only
    one that depends on samples; where it is another, the row form has said -1 itself.
    """
    target = operand(node, 1)
    if target.const_value is None:
        raise ExportError(f"Reshape {node.name} computes its shape: the samples of such a graph cannot be freed")
    dims = target.const_value.numpy()
    if (dims == -1).any():
        return False
    node.replace_input_with(1, whole_numbers(model.graph, [-1, *dims[1:].tolist()]))
    return True


def _expand_to_samples(model: ir.Model, node: ir.Node, x: ir.Value, samples: int, persons: int) -> None:
    """Let the Expand from people (P, 1, 17, C) to their samples (P, n, 17, C) take n from x."""
    if shape_of(node.outputs[0])[:2] != (persons, samples // persons) or shape_of(operand(node, 0))[:2] != (persons, 1):
        raise ExportError(f"Expand {node.name} does not give each of {persons} people's samples what is known of the person")
    by_person = whole_numbers(model.graph, [persons, -1, *shape_of(x)[1:]])
    people = _before(model, node, ir.Node("", "Reshape", [x, by_person]), ir.DataType.FLOAT)
    n = _before(model, node, ir.Node("", "Shape", [people], [ir.AttrInt64("start", 1), ir.AttrInt64("end", 2)]))
    one, ones = (whole_numbers(model.graph, [1] * count) for count in (1, 2))
    shape = _before(model, node, ir.Node("", "Concat", [one, n, ones], [ir.AttrInt64("axis", 0)]))
    node.replace_input_with(1, shape)


def _shape_of_rows(model: ir.Model, node: ir.Node, x: ir.Value) -> ir.Value:
    """Return the numbers (1, B, 1), with B as many as x has samples."""
    samples = _before(model, node, ir.Node("", "Shape", [x], [ir.AttrInt64("end", 1)]))
    one = whole_numbers(model.graph, [1])
    return _before(model, node, ir.Node("", "Concat", [one, samples, one], [ir.AttrInt64("axis", 0)]))


def _before(model: ir.Model, node: ir.Node, made: ir.Node, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
    made.outputs[0].type = ir.TensorType(dtype)
    model.graph.insert_before(node, made)
    return made.outputs[0]
