"""A model as the rules look at it: its graphs, who makes and who takes each tensor, and which tensors are constants."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto as T

from diffpose_edge.export.lint_load import external_place, is_external
from diffpose_edge.export.lint_types import constant_tensor, output_types
from diffpose_edge.reading import open_file

Array = npt.NDArray[Any]

# A constant with more bytes is a weight: its type and shape are known, its values are not read.
MAX_CONSTANT_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Node:
    """A node, and the name it goes by in a report: its own, behind those of the nodes it lies in."""

    proto: onnx.NodeProto
    label: str

    @property
    def op(self) -> str:
        return str(self.proto.op_type)

    @property
    def inputs(self) -> list[str]:
        return list(self.proto.input)

    @property
    def outputs(self) -> list[str]:
        return list(self.proto.output)

    def attribute(self, name: str) -> onnx.AttributeProto | None:
        """Return the attribute of this name, None when it is left out."""
        return next((attribute for attribute in self.proto.attribute if attribute.name == name), None)

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number, or ``default``."""
        found = self.attribute(name)
        return int(found.i) if found is not None and found.type in (found.INT, found.UNDEFINED) else default

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string, or ``default``."""
        found = self.attribute(name)
        return bytes(found.s).decode("utf-8", "replace") if found is not None and found.s else default

    def integers(self, name: str) -> list[int]:
        """Return an attribute that is a list of whole numbers; an empty one when it is left out."""
        found = self.attribute(name)
        return [int(i) for i in found.ints] if found is not None else []


@dataclass(eq=False)
class Graph:
    """The main graph, a branch or body inside it, or the body of a function."""

    proto: onnx.GraphProto | onnx.FunctionProto
    model: onnx.ModelProto
    folder: Path
    place: str  # "" for the main graph, else the label of the node that it belongs to, and which of its graphs
    parent: Graph | None
    opset: int
    nodes: list[Node] = field(default_factory=list)
    # Nodes that lack inputs or outputs which their operator must have; no rule but the one about them sees these.
    malformed: list[Node] = field(default_factory=list)
    maker: dict[str, Node] = field(default_factory=dict)
    takers: dict[str, list[tuple[Node, int]]] = field(default_factory=dict)
    initialisers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: dict[str, onnx.ValueInfoProto | None] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    # Tensors of this graph that a graph inside it takes: who takes them there is not followed.
    captured: set[str] = field(default_factory=set)
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        return not self.place

    def type_of(self, name: str) -> int:
        """Return the element type of a tensor, 0 when it is not known."""
        if name in self.types:
            return self.types[name]
        return self.parent.type_of(name) if self.parent else 0

    def shape_of(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape that the file states for a tensor, None in place of an open size; None when it states none."""
        if name in self.shapes:
            return self.shapes[name]
        return self.parent.shape_of(name) if self.parent else None

    def made_by(self, name: str) -> Node | None:
        """Return the node that makes a tensor, here or in a graph around this one; None for inputs and initialisers."""
        if name in self.maker:
            return self.maker[name]
        return self.parent.made_by(name) if self.parent and not self.knows(name) else None

    def knows(self, name: str) -> bool:
        """Tell whether a tensor is made in this very graph."""
        return name in self.maker or name in self.initialisers or name in self.inputs

    def tensor_of(self, name: str) -> onnx.TensorProto | None:
        """Return the initialiser or the Constant node's tensor behind a name, through Identity nodes."""
        graph: Graph | None = self
        for _ in range(100):  # no longer chain is believed; a cycle ends here
            while graph is not None and not graph.knows(name):
                graph = graph.parent
            if graph is None:
                return None
            node = graph.maker.get(name)
            if node is None:
                return graph.initialisers.get(name)
            if node.op == "Constant":
                return constant_tensor(node)
            if node.op != "Identity" or not node.inputs:
                return None
            name = node.inputs[0]
        return None

    def is_constant(self, name: str) -> bool:
        """Tell whether the tensor's values are fixed in the file."""
        return self.tensor_of(name) is not None

    def constant(self, name: str) -> Array | None:
        """Return the values of a constant of moderate size, None for every other tensor."""
        tensor = self.tensor_of(name)
        return None if tensor is None else self.values(tensor)

    def values(self, tensor: onnx.TensorProto) -> Array | None:
        """Return a tensor's values unless they are too many, or not numbers, or fewer than its shape says."""
        if tensor.data_type in (T.UNDEFINED, T.STRING) or tensor.ByteSize() > MAX_CONSTANT_BYTES:
            return None
        try:
            if is_external(tensor):
                file, offset, length = external_place(tensor, self.folder)
                if length > MAX_CONSTANT_BYTES:
                    return None
                with open_file(file, file.stat().st_size, inside=self.folder) as stream:
                    stream.seek(offset)
                    inside = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=stream.read(length))
                return np.asarray(onnx.numpy_helper.to_array(inside))
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError):
            return None


def read_graphs(model: onnx.ModelProto, folder: Path) -> list[Graph]:
    """Return the main graph first, then those inside it, then the functions with theirs."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    found: list[Graph] = []
    _read(model.graph, model, folder, "", None, opset, found)
    for function in model.functions:
        own = max((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), default=opset)
        _read(function, model, folder, f"function {function.domain}:{function.name}", None, own, found)
    return found


def _read(
    proto: onnx.GraphProto | onnx.FunctionProto,
    model: onnx.ModelProto,
    folder: Path,
    place: str,
    parent: Graph | None,
    opset: int,
    found: list[Graph],
) -> None:
    graph = Graph(proto, model, folder, place, parent, opset)
    found.append(graph)
    if isinstance(proto, onnx.GraphProto):
        graph.initialisers = {tensor.name: tensor for tensor in proto.initializer}
        graph.initialisers |= {s.values.name: s.values for s in proto.sparse_initializer}
        # Before IR 4 every initialiser is an input as well.
        graph.inputs = {value.name: value for value in proto.input if value.name not in graph.initialisers}
        graph.outputs = [value.name for value in proto.output]
        for value in (*proto.input, *proto.value_info, *proto.output):
            _note(graph, value)
        for name, tensor in graph.initialisers.items():
            graph.types[name], graph.shapes[name] = tensor.data_type, tuple(tensor.dims)
    else:
        graph.inputs = dict.fromkeys(proto.input)
        graph.outputs = list(proto.output)
    twins = Counter(node.name for node in proto.node)
    for node in proto.node:
        own = node.name if node.name and twins[node.name] == 1 else f"{node.name or node.op_type} -> {_first(node.output)}"
        entry = Node(node, f"{place}/{own}" if place else own)
        (graph.nodes if _is_whole(node, opset) else graph.malformed).append(entry)
    for entry in graph.nodes:
        for position, name in enumerate(entry.inputs):
            if name:
                graph.takers.setdefault(name, []).append((entry, position))
        for name in entry.outputs:
            if name:
                graph.maker[name] = entry
    for name in (*graph.takers, *graph.outputs):
        _capture(graph, name)
    for entry in graph.nodes:
        for attribute in entry.proto.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _read(inner, model, folder, f"{entry.label}/{attribute.name}", graph, opset, found)
        # Nodes come in the order of computation; what the file states is believed.
        for name, kind in zip(entry.outputs, output_types(entry, [graph.type_of(n) if n else 0 for n in entry.inputs]), strict=False):
            if name and kind:
                graph.types.setdefault(name, kind)


def _is_whole(node: onnx.NodeProto, opset: int) -> bool:
    """Tell whether a node has an output, and every input that its operator must have."""
    needed = _needed_inputs(node.op_type, opset) if node.domain in ("", "ai.onnx") else ()
    return any(node.output) and all(position < len(node.input) and node.input[position] for position in needed)


@cache
def _needed_inputs(op: str, opset: int) -> tuple[int, ...]:
    """Return the positions of the inputs that an operator must have; optional ones may come before them."""
    newest = onnx.defs.onnx_opset_version()
    try:
        schema = onnx.defs.get_schema(op, opset if 0 < opset < newest else newest)
    except onnx.defs.SchemaError:  # no operator of this opset
        return ()
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return tuple(position for position, formal in enumerate(schema.inputs) if formal.option == single)


def _capture(graph: Graph, name: str) -> None:
    """Note in the graphs around this one that a tensor of theirs is used in here."""
    if graph.knows(name):
        return
    around = graph.parent
    while around is not None:
        if around.knows(name):
            around.captured.add(name)
            return
        around = around.parent


def _note(graph: Graph, value: onnx.ValueInfoProto) -> None:
    if value.type.HasField("tensor_type"):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            graph.types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            graph.shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _first(names: Any) -> str:
    return next((name for name in names if name), "nothing")
