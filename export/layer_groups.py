"""A graph's nodes by layer, and its matmuls with constant weights: what precision is chosen for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from diffpose_edge.config import CausalConfig, VideoConfig
from diffpose_edge.export.folded import tap_names
from diffpose_edge.manifest import Manifest
from diffpose_edge.reference.taps import block_names

# What comes after the last layer: the output convolution of the context encoder, the update of the step.
TAIL = "output"
# Operators that stand between an input and its first matmul: joints are mixed, rearranged, or mirrored.
CARRIERS = ("MatMul", "Reshape", "Transpose", "Mul", "Gather", "Concat")


@dataclass(frozen=True)
class WeightMatMul:
    """A matmul ``activation`` (…, rows, c_in) by the constant ``weight`` (c_in, c_out).

    ``name`` is the layer and the weight's name in it; ``group`` the layer alone; ``node`` the node's name; ``macs`` the
    multiply-accumulates of one run of the graph.
    """

    name: str
    group: str
    node: str
    activation: str
    weight: str
    macs: int


def taps_of(manifest: Manifest, role: str) -> tuple[str, ...]:
    """Return the names of the layer outputs inside a bundle's graph, in the graph's order."""
    if role == "step":
        return (*tap_names(manifest.denoiser.layers), "eps")
    if isinstance(manifest.context, VideoConfig):
        return tuple(block_names(manifest.context.depth))
    if isinstance(manifest.context, CausalConfig):
        return (*block_names(manifest.context.depth)[:-1], "feature")
    names = tap_names(manifest.context.layers)
    # Of a trained pair the last layer's output is the graph's output "feature".
    return tuple(names[:-1]) + (("feature",) if manifest.process.kind == "distribution" else (names[-1],))


def groups_of(model: onnx.ModelProto, taps: Sequence[str]) -> dict[str, str]:
    """Return each node's layer by the node's name: the first tap that it leads to, or TAIL.

    A node that leads to several layers, such as the lookup of the step embedding, belongs to the first of them.
    """
    producer = {value: node for node in model.graph.node for value in node.output}
    group: dict[str, str] = {}
    for tap in taps:
        waiting = [tap]
        while waiting:
            node = producer.get(waiting.pop())
            if node is not None and node.name not in group:
                group[node.name] = tap
                waiting += node.input
    return {node.name: group.get(node.name, TAIL) for node in model.graph.node}


def weight_matmuls(model: onnx.ModelProto, taps: Sequence[str]) -> tuple[WeightMatMul, ...]:
    """Return the matmuls whose right-hand side is a constant matrix, in the graph's order."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    group = groups_of(model, taps)
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or len(weights.get(node.input[1], ())) != 2 or node.input[0] in weights:
            continue
        # Module paths of weights end in "attention.w_qkv" or "conv1.weight": the last word tells it apart within a layer.
        kind = node.input[1].rpartition(".")[2]
        prefix = node.input[1].rpartition(".")[0].rpartition(".")[2]
        layer = group[node.name]
        if prefix == "condition":  # it leads to the first layer, but is no part of it
            layer = prefix
        if kind != "weight":
            name = f"{layer}.{kind}"
        else:
            name = layer if layer.endswith(prefix) else f"{layer}.{prefix}"
        rows = int(np.prod(shapes[node.input[0]][:-1]))
        c_in, c_out = weights[node.input[1]]
        found.append(WeightMatMul(name, layer, node.name, node.input[0], node.input[1], rows * c_in * c_out))
    names = [matmul.name for matmul in found]
    assert len(set(names)) == len(names), f"two matmuls of one name: {names}"
    return tuple(found)


def border_nodes(model: onnx.ModelProto, taps: Sequence[str]) -> dict[str, str]:
    """Return the nodes of the input and output layers, and of the update, by name, with what they round in low precision.

    The input layers reach from each input of the graph to the first matmul with a weight (c_in, c_out) and its bias.
    """
    groups = groups_of(model, taps)
    constants = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    reached, past = {value.name for value in model.graph.input}, set[str]()
    found = {}
    for node in model.graph.node:
        if groups[node.name] in (TAIL, "eps"):
            found[node.name] = "output layer or update: rounds the result itself"
        if past & set(node.input) and node.op_type == "Add" and any(value in constants for value in node.input):
            found[node.name] = "input layer: rounds the coordinates"
        if not reached & set(node.input) or node.op_type not in CARRIERS:
            continue
        found.setdefault(node.name, "input layer: rounds the coordinates")
        if node.op_type == "MatMul" and constants.get(node.input[1]) == 2:
            past |= set(node.output)
        else:
            reached |= set(node.output)
    return found


def matmul_macs(model: onnx.ModelProto) -> int:
    """Return the multiply-accumulates of all matmuls in one run of the graph, those of two activations too."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "MatMul"]
    return sum(int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1] for node in nodes)


def weights_sha256(model: onnx.ModelProto, taps: Sequence[str]) -> str:
    """Return a hash of all weight matrices of a graph: the same for every P and N that the network is exported for."""
    constants = initialisers_of(model)
    digest = hashlib.sha256()
    for matmul in weight_matmuls(model, taps):
        digest.update(matmul.name.encode() + constants[matmul.weight].tobytes())
    return digest.hexdigest()


def initialisers_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the constants of a graph by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
