"""Graphs of a bundle from a stranger: whatever a graph could use against its machine is refused in its bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge import graph_contents
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import BundleError, LintError
from diffpose_edge.export.lint import lint
from diffpose_edge.graph_contents import OPERATORS, checked_graph
from diffpose_edge.manifest import GRAPHS

FLOAT = TensorProto.FLOAT


def a_model(*nodes: Any, constants: Any = (), **fields: Any) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes) or [helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **fields)


def elsewhere(location: str = "../secret", length: str = "8") -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def only_location() -> onnx.TensorProto:
    tensor = elsewhere()
    del tensor.external_data[:]
    return tensor


def only_entries() -> onnx.TensorProto:
    tensor = elsewhere()
    tensor.data_location = TensorProto.DEFAULT
    return tensor


ADD = helper.make_node("Add", ["x", "w"], ["y"])
INNER = a_model().graph
SPARSE = onnx.SparseTensorProto(values=elsewhere(), indices=numpy_helper.from_array(np.array([0, 1])), dims=[2])


def with_training() -> onnx.ModelProto:
    model = a_model()
    model.training_info.add().algorithm.CopyFrom(a_model(ADD, constants=[elsewhere()]).graph)
    return model


def with_sparse() -> onnx.ModelProto:
    model = a_model(ADD)
    model.graph.sparse_initializer.append(SPARSE)
    return model


def claiming(*dims: int) -> onnx.ModelProto:
    return a_model(ADD, constants=[TensorProto(name="w", data_type=FLOAT, dims=list(dims), raw_data=bytes(8))])


FUNCTION = helper.make_function("own", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 17)])
ANOTHER_FILE = "another file, which could be any file of this machine"
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external": (lambda: a_model(ADD, constants=[elsewhere()]), ANOTHER_FILE),
    "external, without entries": (lambda: a_model(ADD, constants=[only_location()]), ANOTHER_FILE),
    "entries alone": (lambda: a_model(ADD, constants=[only_entries()]), ANOTHER_FILE),
    "external in a node": (lambda: a_model(helper.make_node("Constant", [], ["y"], value=elsewhere())), ANOTHER_FILE),
    "a loop": (lambda: a_model(helper.make_node("Loop", ["x"], ["y"], body=INNER)), "graphs within a node"),
    "a branch": (lambda: a_model(helper.make_node("If", ["x"], ["y"], then_branch=INNER, else_branch=INNER)), "graphs within a node|'If'"),
    "a graph where none belongs": (lambda: a_model(helper.make_node("Relu", ["x"], ["y"], body=INNER)), "graphs within a node"),
    "out of nothing": (lambda: a_model(helper.make_node("ConstantOfShape", ["x"], ["y"])), "the operator 'ConstantOfShape'"),
    "another library": (lambda: a_model(helper.make_node("Relu", ["x"], ["y"], domain="evil")), "the operator 'evil.Relu'"),
    "a custom operator": (lambda: a_model(helper.make_node("PyOp", ["x"], ["y"], domain="ai.onnx.contrib")), "contrib.PyOp"),
    "functions": (lambda: a_model(helper.make_node("F", ["x"], ["y"], domain="own"), functions=[FUNCTION]), "own.F|functions"),
    "training": (with_training, "for training"),
    "sparse": (with_sparse, "sparse constants"),
    "sparse in a node": (lambda: a_model(helper.make_node("Constant", [], ["y"], sparse_value=SPARSE)), "sparse constants"),
    "more than memory": (lambda: claiming(2**20, 2**20), f"claims {2**40} values"),
    "more than a number": (lambda: claiming(2**62, 2**62), "of a size that no constant has"),
    "negative": (lambda: claiming(-1, 3), "of a size that no constant has"),
    "of ten axes": (lambda: claiming(*[1] * 10), "of a size that no constant has"),
    "a name that leads the terminal": (lambda: a_model(helper.make_node("\x1b[2J", ["x"], ["y"])), r"the operator '\\\\x1b\[2J'|\\x1b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_export_writes_is_refused(name: str) -> None:
    make, said = HOSTILE[name]
    with pytest.raises(BundleError, match=rf"^the step graph .*({said}).*refused"):
        checked_graph(make().SerializeToString(), "the step graph")


def test_a_plain_graph_is_counted() -> None:
    constant = numpy_helper.from_array(np.ones(2, np.float32), "w")
    contents = checked_graph(a_model(ADD, constants=[constant]).SerializeToString(), "it")
    assert (contents.nodes, contents.constants, contents.constant_bytes) == (1, 1, 8)
    assert checked_graph(a_model(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")).SerializeToString(), "it").nodes == 1


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x3b\x08\x01", b"\x08" + b"\x80" * 20, b"PK\x03\x04"]
)
def test_what_is_no_graph_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(BundleError, match="is not an ONNX graph, or is damaged"):
        checked_graph(content, "it")
    with pytest.raises(BundleError, match="is not an ONNX graph, or is damaged"):
        checked_graph(b"\x18\x00\x00\x00ORTM" + content, "it")  # ONNX Runtime's own format, which it recognises by these letters


def test_a_graph_cut_off_anywhere_is_damaged_or_whole(golden_bundle: Path) -> None:
    content = load_bundle(golden_bundle).read("step")
    for length in range(0, len(content), 997):
        with pytest.raises(BundleError):
            checked_graph(content[:length], "it")


def test_endless_nodes_and_fields_are_refused_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(*[helper.make_node("Relu", ["x"], ["y"])] * 200).SerializeToString()
    monkeypatch.setattr(graph_contents, "MOST_NODES", 100)
    with pytest.raises(BundleError, match="more than 100 nodes"):
        checked_graph(model, "it")
    monkeypatch.setattr(graph_contents, "MOST_FIELDS", 1000)
    endless = bytes([7 << 3 | 2, 0x80, 0x80, 0x40]) + bytes([9 << 3, 1]) * (1 << 19)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="more than 1000 fields"):
            checked_graph(endless, "it")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow  # alone it has to make all of the bundles
def test_all_that_we_write_is_let_through_and_uses_nothing_else(calibrated_bundles: dict[str, Path]) -> None:
    used: set[tuple[str, str]] = set()
    for path in calibrated_bundles.values():
        bundle = load_bundle(path)
        for entry in bundle.manifest.files.values():
            if entry.role in GRAPHS:
                used |= {(node.domain, node.op_type) for node in onnx.load_from_string(bundle.read(entry.role, entry.precision)).graph.node}
    allowed = {(domain, operator) for domain, operators in OPERATORS.items() for operator in operators}
    assert used <= allowed
    # What is allowed and was not written by any of these: what other exporters write for the same, the start graph's operator, and what
    # earlier exports wrote for the CPU.
    elsewhere = {("", name) for name in ("Constant", "Flatten", "Identity", "Pad", "Pow", "Gemm", "Shape")}
    assert allowed - used <= elsewhere | {("com.microsoft", "Attention"), ("com.microsoft", "MultiHeadAttention")}


READ_BY_ONNX = """
import onnx, sys
from onnx import numpy_helper
model = onnx.load_from_string(open(sys.argv[1], 'rb').read())
print(numpy_helper.to_array(model.graph.initializer[0], sys.argv[2]).tobytes())
"""


def test_external_data_is_a_danger_and_neither_bundle_nor_lint_follows_it(tmp_path: Path) -> None:
    """The control: the onnx package itself reads the file that a constant names, in the folder that it is told."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret").write_bytes(b"PASSWORD")
    (tmp_path / "secret").write_bytes(b"PASSWORD")
    inner = tmp_path / "folder" / "inner.onnx"
    inner.write_bytes(a_model(ADD, constants=[elsewhere("secret")]).SerializeToString())
    read = subprocess.run([sys.executable, "-c", READ_BY_ONNX, inner, tmp_path / "folder"], capture_output=True, text=True, check=True)
    assert "PASSWORD" in read.stdout
    with pytest.raises(BundleError, match=ANOTHER_FILE):
        checked_graph(inner.read_bytes(), "it")
    outer = tmp_path / "folder" / "outer.onnx"
    for location in ("../secret", str(tmp_path / "secret"), "link", "pipe", "a\0b"):
        outer.write_bytes(a_model(ADD, constants=[elsewhere(location)]).SerializeToString())
        if location == "link":
            (tmp_path / "folder" / "link").symlink_to("../secret")
        elif location == "pipe":
            os.mkfifo(tmp_path / "folder" / "pipe")
        with pytest.raises(LintError, match=r"refused|cannot be read"):
            lint(outer, "10.3")
