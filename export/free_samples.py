"""Lets a graph for the CPU take any number of samples: a pass over a denoiser step in row form.

A runtime can then give each core a part of the samples and walk all steps of the parts side by side, from one graph: at these sizes
that is faster than cores that share every matmul.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from diffpose_edge.errors import ExportError
from diffpose_edge.export.row_form import operand, shape_of
from diffpose_edge.manifest import SAMPLES


def free_samples(model: ir.Model) -> int:
    """Rewrite a step in row form in place so that x (P n, 17, 5) may have any number n of samples; return how many nodes changed.

    The number of people P stays. Raises ExportError for a graph whose shapes are not those of a step.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    samples = shape_of(inputs["x"])[0]
    persons = shape_of(inputs["feature"])[0] if "feature" in inputs else 1
    changed = 0
    for node in list(model.graph):
        if node.op_type == "Reshape":
            changed += _infer_rows(model, node)
        elif node.op_type == "Expand":
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
    """Let a Reshape infer its first dimension, unless it infers another; tell whether it changed. Of what is in rows it is the only
    one that depends on samples: where joints come first, the row form has said -1 itself.
    """
    target = operand(node, 1)
    if target.const_value is None:
        raise ExportError(f"Reshape {node.name} computes its shape: the samples of such a graph cannot be freed")
    dims = target.const_value.numpy()
    if (dims == -1).any():
        return False
    node.replace_input_with(1, _constant(model, np.array([-1, *dims[1:]], np.int64)))
    return True


def _expand_to_samples(model: ir.Model, node: ir.Node, x: ir.Value, samples: int, persons: int) -> None:
    """Let the Expand from people (P, 1, 17, C) to their samples (P, n, 17, C) take n from x."""
    if shape_of(node.outputs[0])[:2] != (persons, samples // persons) or shape_of(operand(node, 0))[:2] != (persons, 1):
        raise ExportError(f"Expand {node.name} does not give each of {persons} people's samples what is known of the person")
    by_person = _constant(model, np.array([persons, -1, *shape_of(x)[1:]], np.int64))
    people = _before(model, node, ir.Node("", "Reshape", [x, by_person]), ir.DataType.FLOAT)
    n = _before(model, node, ir.Node("", "Shape", [people], [ir.AttrInt64("start", 1), ir.AttrInt64("end", 2)]))
    one, ones = (_constant(model, np.ones(count, np.int64)) for count in (1, 2))
    shape = _before(model, node, ir.Node("", "Concat", [one, n, ones], [ir.AttrInt64("axis", 0)]))
    node.replace_input_with(1, shape)


def _before(model: ir.Model, node: ir.Node, made: ir.Node, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
    made.outputs[0].type = ir.TensorType(dtype)
    model.graph.insert_before(node, made)
    return made.outputs[0]


def _constant(model: ir.Model, numbers: np.ndarray) -> ir.Value:
    """Return an initialiser of whole numbers; equal ones are one."""
    name = f"shape.{'x'.join('any' if n == -1 else str(n) for n in numbers.tolist())}"
    if name not in model.graph.initializers:
        tensor = ir.tensor(numbers, name=name)
        value = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(ir.DataType.INT64), const_value=tensor)
        model.graph.register_initializer(value)
    return model.graph.initializers[name]
