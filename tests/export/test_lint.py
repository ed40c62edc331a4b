"""Reading files, foreign and damaged ones too; the project's own graphs are clean; the documented rules are those of the code."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.errors import BundleError, LintError
from diffpose_edge.export.lint import RULES, SEVERITIES, TARGETS, counts, files_of, lint, lint_all

HERE = Path(__file__).parent
FOREIGN = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx"))
DOCUMENT = HERE.parents[1] / "docs" / "lint.md"


def small(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes) or [helper.make_node("Relu", ["x"], ["y"], name="relu")], "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bundle", ["golden_bundle", "golden_video_bundle", "conditioned_bundle", "conditioned_video_bundle"])
def test_exported_graphs_are_clean_for_every_target(bundle: str, request: pytest.FixtureRequest) -> None:
    files = files_of(request.getfixturevalue(bundle))
    assert len(files) == 2
    for file in files:
        found = lint_all(file)
        assert {finding.rule for finding in found} == {"typing-float32"}
        assert counts(found) == {"refused": 0, "bad": 0, "risk": 0, "note": 2}


def test_every_rule_is_in_the_document_as_it_is_in_the_code() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `") and line.count(" | ") == 4]
    wanted = [
        f"| `{rule.id}` | {rule.what} "
        f"| {'all' if rule.targets == tuple(TARGETS) else ', '.join(rule.targets)} | {rule.remedy} | {rule.source} |"
        for rule in RULES.values()
    ]
    assert rows == wanted


def test_every_target_is_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for target in TARGETS.values():
        assert f"| `{target.name}` | {target.title} | {target.min_opset} to {target.max_opset} |" in text


def test_every_rule_has_a_planted_fault() -> None:
    planted = "".join((HERE / name).read_text(encoding="utf-8") for name in ("test_lint_rules.py", "test_lint_quantisation.py"))
    assert [rule for rule in RULES if f'("{rule}", "' not in planted and f'"{rule}",\n' not in planted] == []


def test_rules_name_targets_that_there_are() -> None:
    for rule in RULES.values():
        assert set(rule.targets) <= set(TARGETS)
        assert rule.targets


def test_findings_are_sorted_by_severity_and_frozen() -> None:
    model = small(helper.make_node("Det", ["x"], ["p"]), helper.make_node("Gelu", ["p"], ["y"]))
    order = [SEVERITIES.index(finding.severity) for finding in lint(model, "10.3")]
    assert order == sorted(order)
    assert len(set(order)) > 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        lint(model, "10.3")[0].rule = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "8.5", "10", "RTX"])
def test_an_unknown_target_names_those_that_there_are(name: str) -> None:
    with pytest.raises(LintError, match=r"8\.6, 10\.3, .*rtx, got"):
        lint(small(), name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph"),
        (b"hello, this is no model\n" * 40, "is not an ONNX file"),
        (b"\x00" * 5000, "is not an ONNX file"),
        (b'{"format": "json"}', "is not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "is not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(LintError, match=message):
        lint(tmp_path / "m.onnx", "8.6")


def test_places_where_no_file_is(tmp_path: Path) -> None:
    for place, message in (
        (tmp_path / "none.onnx", "does not exist"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
        ("x" * 9999, "cannot be read"),
    ):
        with pytest.raises(LintError, match=message):
            lint(place, "8.6")


def test_a_file_above_what_protobuf_holds_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "big.onnx", "wb") as file:
        file.truncate(2**31)  # sparse: it takes no room
    with pytest.raises(LintError, match="external data"):
        lint(tmp_path / "big.onnx", "8.6")


def with_external_weights(folder: Path) -> Path:
    model = small(helper.make_node("Add", ["x", "w"], ["y"], name="sum"), w=np.full((2, 4), np.inf, np.float16))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    return folder / "m.onnx"


def test_external_weights_are_read_where_needed(tmp_path: Path) -> None:
    assert [(f.rule, f.tensor) for f in lint(with_external_weights(tmp_path), "10.3") if f.severity == "bad"] == [("half-constant", "w")]


@pytest.mark.parametrize(("damage", "message"), [("missing", "does not exist"), ("short", "copy it again"), ("outside", "not inside")])
def test_external_weights_that_cannot_be_read(tmp_path: Path, damage: str, message: str) -> None:
    path = with_external_weights(tmp_path)
    if damage == "missing":
        (tmp_path / "m.bin").unlink()
    elif damage == "short":
        (tmp_path / "m.bin").write_bytes(b"\0" * 7)
    else:
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = "../m.bin"
        shutil.copy(tmp_path / "m.bin", tmp_path.parent / "m.bin")
        path.write_bytes(model.SerializeToString())
    with pytest.raises(LintError, match=message):
        lint(path, "8.6")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        files_of(tmp_path)


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.parent.name)
def test_foreign_files_are_read_for_every_target(path: Path) -> None:
    """The files that onnx ships: old opsets, PyTorch's exports, strings, sequences, training operators."""
    for finding in lint_all(path):
        assert finding.rule in RULES
        assert finding.target in RULES[finding.rule].targets


def test_there_are_foreign_files() -> None:
    assert len(FOREIGN) > 100


def test_damaged_files_are_refused_or_read_but_never_crash(golden_bundle: Path, tmp_path: Path) -> None:
    """Cut off, and with bytes exchanged. Whatever protobuf still takes for a model must go through every rule."""
    whole = list(files_of(golden_bundle))[1].read_bytes()
    draws = random.Random(11)
    read = 0
    for attempt in range(60):
        content = bytearray(whole)
        if attempt % 3 == 0:
            del content[draws.randrange(1, len(content)) :]
        for _ in range(draws.randrange(1, 30)):
            content[draws.randrange(min(len(content), 9000 if attempt % 2 else len(content)))] = draws.randrange(256)
        (tmp_path / "m.onnx").write_bytes(content)
        try:
            lint_all(tmp_path / "m.onnx")
            read += 1
        except LintError:
            pass
    assert 5 < read < 60


def test_nodes_without_inputs_outputs_or_attributes() -> None:
    """What no exporter writes, of every operator that a rule looks at."""
    operators = [
        "Add",
        "Cast",
        "Conv",
        "ConvTranspose",
        "Constant",
        "DequantizeLinear",
        "Dropout",
        "Gemm",
        "If",
        "LayerNormalization",
        "Loop",
        "MatMul",
    ]
    operators += [
        "MaxPool",
        "Pow",
        "QuantizeLinear",
        "ReduceMean",
        "ReduceSum",
        "Resize",
        "Scan",
        "Softmax",
        "TopK",
        "Transpose",
        "Where",
        "OneHot",
        "",
    ]
    for op in operators:
        for inputs in (list[str](), ["x"], [""], ["x", "x"], ["x", "", "x"], ["y", "y", "y"]):
            for outputs in (list[str](), ["y"], ["", "y"]):
                lint_all(small(helper.make_node(op, inputs, outputs)))


def test_a_cycle_and_a_deep_chain_end(tmp_path: Path) -> None:
    chain = [helper.make_node("Identity", [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(5000)]
    chain[0].input[0], chain[-1].output[0] = "x", "y"
    assert [f for f in lint(small(*chain), "8.6") if f.severity != "note"] == []
    chain[0].input[0] = "y"
    assert [f.rule for f in lint(small(*chain), "8.6") if f.severity == "refused"] == ["tensor-unmade"]


def test_graphs_nested_deeper_than_protobuf_reads_are_refused(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))  # a graph's node, its attribute, its graph
    (tmp_path / "deep.onnx").write_bytes(b"\x08\x08" + field(7, graph))
    with pytest.raises(LintError, match="damaged"):
        lint(tmp_path / "deep.onnx", "8.6")
