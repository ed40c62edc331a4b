"""Each rule on models, operators and float16 finds a fault planted for it, at the node where it was planted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.export.lint import TARGETS, Finding, lint


def model_of(text: str, *, opset: int = 17, ir: int = 8, **constants: object) -> onnx.ModelProto:
    """A model out of ONNX's textual form, with initialisers added."""
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1, "own" : 1]>\n'
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    return model


def half(*values: float) -> np.ndarray:
    return np.asarray(values, np.float16)


def faults(model: onnx.ModelProto, target: str) -> list[Finding]:
    return [finding for finding in lint(model, target) if finding.severity != "note"]


SIMPLE = "g (float[2, 4] x) => (float[2, 4] y) { [relu] y = Relu(x) }"
F16 = "g (float16[2, 4] x) => (float16[2, 4] y) "
If = (
    "[if] y = If (c) <then_branch = t () => (float[2,4] {0}) {{ [inner] {0} = {2}(x) }}, "
    "else_branch = e () => (float[2,4] {1}) {{ {1} = Relu(x) }}>"
)

# (rule, severity, target, node, model)
SEEDS: list[tuple[str, str, str, str, onnx.ModelProto]] = [
    ("opset-newer", "risk", "8.6", "", model_of(SIMPLE, opset=18)),
    ("opset-newer", "risk", "10.3", "", model_of(SIMPLE, opset=20)),
    ("opset-newer", "risk", "11.4", "", model_of(SIMPLE, opset=26)),
    ("opset-older", "risk", "10.3", "", model_of(SIMPLE, opset=8)),
    ("opset-older", "refused", "8.6", "sum", model_of("g (float[4] x) => (float[4] y) { [sum] y = Add(x, x) }", opset=6)),
    ("ir-newer", "note", "8.6", "", model_of(SIMPLE, ir=10)),
    ("io-int64", "risk", "8.6", "", model_of("g (int64[2] x) => (float[2] y) { [c] y = Cast<to = 1>(x) }")),
    ("io-int64", "note", "10.3", "", model_of("g (int64[2] x) => (float[2] y) { [c] y = Cast<to = 1>(x) }")),
    ("io-double", "bad", "rtx", "", model_of("g (double[2] x) => (float[2] y) { [c] y = Cast<to = 1>(x) }")),
    ("io-type", "refused", "11.4", "", model_of("g (int16[2] x) => (float[2] y) { [c] y = Cast<to = 1>(x) }")),
    ("io-type", "refused", "8.6", "", model_of("g (bfloat16[2] x) => (float[2] y) { [c] y = Cast<to = 1>(x) }")),
    ("io-uint8", "risk", "10.16", "sum", model_of("g (uint8[2] x) => (uint8[2] y) { [sum] y = Add(x, x) }")),
    ("input-dynamic", "risk", "rtx", "", model_of('g (float["N", 4] x) => (float[] y) { [relu] y = Relu(x) }')),
    ("constant-type", "refused", "rtx", "", model_of("g (float[1] x) => (float[1] y) { [g] y = Gather(x, i) }", i=np.zeros(1, np.uint16))),
    ("constant-type", "refused", "8.6", "c", model_of('g (float[1] x) => (string[1] s) { [c] s = Constant<value_strings = ["a"]>() }')),
    ("tensor-unmade", "refused", "8.6", "sum", model_of("g (float[4] x) => (float[4] y) { [sum] y = Add(x, lost) }")),
    ("tensor-unmade", "refused", "8.6", "a", model_of("g (float[4] x) => (float[4] y) { [a] p = Add(x, y) [b] y = Relu(p) }")),
    ("node-malformed", "refused", "10.3", "sum", model_of("g (float[4] x) => (float[4] y) { [sum] y = Add(x) }")),
    ("name-duplicate", "risk", "10.3", "r -> p", model_of("g (float[4] x) => (float[4] y) { [r] p = Relu(x) [r] y = Relu(p) }")),
    ("name-missing", "note", "10.3", "Relu -> y", model_of("g (float[4] x) => (float[4] y) { y = Relu(x) }")),
    ("typing-float32", "note", "11.4", "", model_of(SIMPLE)),
    ("typing-hints", "note", "8.6", "", model_of(F16 + "{ [relu] y = Relu(x) }")),
    ("op-domain", "refused", "rtx", "f", model_of("g (float[4] x) => (float[4] y) { [f] y = com.microsoft.FastGelu(x) }")),
    ("op-domain", "risk", "rtx", "f", model_of("g (float[4] x) => (float[4] y) { [f] y = com.microsoft.Relu(x) }")),
    ("op-plugin", "risk", "8.6", "f", model_of("g (float[4] x) => (float[4] y) { [f] y = EfficientNMS_TRT(x) }")),
    ("op-unsupported", "refused", "11.4", "d", model_of("g (float[4,4] x) => (float y) { [d] y = Det(x) }")),
    ("op-unsupported", "refused", "10.13", "a", model_of("g (float[1,1,4,4] x) => (float[1,1,4,4] y) { [a] y = Attention(x, x, x) }")),
    ("op-unsupported", "refused", "rtx", "n", model_of("g (float[4] x) => (int64[] y) { [n] y = NonZero(x) }")),
    ("op-unsupported", "risk", "10.3", "n", model_of("g (float[4] x) => (float[4] y) { [n] y = Gelu(x) }")),
    (
        "op-unsupported",
        "refused",
        "8.6",
        "if/then_branch/inner",
        model_of("g (float[2,4] x, bool c) => (float[2,4] y) {" + If.format("p", "q", "Det") + "}"),
    ),
    ("op-unknown", "refused", "8.6", "n", model_of("g (float[4] x) => (float[4] y) { [n] y = Frobnicate(x) }")),
    ("op-integer", "refused", "10.3", "q", model_of("g (float[4] x) => (uint8[4] y) { [q] y, s, z = DynamicQuantizeLinear(x) }")),
    (
        "op-form",
        "refused",
        "8.6",
        "p",
        model_of("g (float[1,1,4,4] x) => (float[1,1,2,2] y) { [p] y, i = MaxPool<kernel_shape = [3,3]>(x) }"),
    ),
    (
        "op-form",
        "refused",
        "rtx",
        "n",
        model_of("g (float[4] x) => (float[4] y) { [n] y, m = LayerNormalization(x, s) }", s=np.ones(4, np.float32)),
    ),
    ("op-constant-input", "refused", "rtx", "r", model_of("g (float[4,2] x, int64[1] a) => (float[] y) { [r] y = ReduceSum(x, a) }")),
    ("op-data-dependent", "note", "10.3", "n", model_of("g (float[4] x) => (int64[] y) { [n] y = NonZero(x) }")),
    ("if-branch-names", "risk", "10.3", "if", model_of("g (float[2,4] x, bool c) => (float[2,4] y) {" + If.format("p", "p", "Relu") + "}")),
    ("half-variance", "risk", "8.6", "mean", model_of(F16 + "{ [s] p = Mul(x, x) [mean] y = ReduceMean<axes = [-1]>(p) }")),
    (
        "half-variance",
        "risk",
        "rtx",
        "mean",
        model_of(F16 + "{ [s] p = Pow(x, e) [mean] y = ReduceMean<axes = [-1]>(p) }", e=np.float32(2)),
    ),
    (
        "half-epsilon",
        "risk",
        "10.3",
        "plus",
        model_of(F16 + "{ [plus] p = Add(x, e) [root] r = Sqrt(p) [over] y = Div(x, r) }", e=half(1e-12)),
    ),
    (
        "half-epsilon",
        "risk",
        "10.3",
        "plus",
        model_of(F16 + "{ [c] e = Cast<to = 10>(f) [plus] p = Add(x, e) [over] y = Div(x, p) }", f=np.float32(1e-9)),
    ),
    ("half-constant", "bad", "10.3", "", model_of(F16 + "{ [sum] y = Add(x, c) }", c=half(np.inf))),
    ("half-constant", "bad", "8.6", "c", model_of(F16 + "{ [c] m = Cast<to = 10>(f) [sum] y = Add(x, m) }", f=np.float32(-1e9))),
    ("half-mask", "risk", "11.4", "sum", model_of(F16 + "{ [sum] p = Add(x, m) [soft] y = Softmax(p) }", m=half(0, 0, 0, -65504))),
    ("half-subnormal", "risk", "rtx", "", model_of(F16 + "{ [times] y = Mul(x, c) }", c=half(1e-6))),
    (
        "cast-roundtrip",
        "bad",
        "10.3",
        "down",
        model_of("g (float[4] x) => (float[4] y) { [down] p = Cast<to = 10>(x) [up] q = Cast<to = 1>(p) [relu] y = Relu(q) }"),
    ),
]


@pytest.mark.parametrize(("rule", "severity", "target", "node", "model"), SEEDS, ids=[f"{s[0]}-{s[1]}-{s[2]}" for s in SEEDS])
def test_a_planted_fault_is_found(rule: str, severity: str, target: str, node: str, model: onnx.ModelProto) -> None:
    found = [(finding.severity, finding.node) for finding in lint(model, target) if finding.rule == rule]
    assert (severity, node) in found


def test_half_epsilon_of_the_operator() -> None:
    text = F16 + "{ [n] y = LayerNormalization<epsilon = 1.0e-12, stash_type = 10>(x, s) }"
    assert [f.rule for f in faults(model_of(text, s=half(1, 1, 1, 1)), "10.3")] == ["half-epsilon"]


def normalised_in(kind: int, name: str) -> onnx.ModelProto:
    """A float16 product with the statistics of a LayerNorm behind it in another type, and a state kept in float32."""
    text = f"""
    g (float[2, 4] state, float16[2, 4] x) => (float[2, 4] next) {{
        [product] h = MatMul(x, w)
        [widen] s = Cast<to = {kind}>(h)
        [mean] m = ReduceMean<axes = [-1]>(s)
        [centre] c = Sub(s, m)
        [square] q = Mul(c, c)
        [variance] v = ReduceMean<axes = [-1]>(q)
        [root] r = Sqrt(v)
        [plus] e = Add(r, eps)
        [over] n = Div(c, e)
        [narrow] o = Cast<to = 10>(n)
        [out] p = MatMul(o, w)
        [back] b = Cast<to = 1>(p)
        [update] next = Add(state, b)
    }}"""
    return model_of(text, w=np.eye(4, dtype=np.float16), eps=np.asarray(1e-6, name))


@pytest.mark.parametrize("target", TARGETS)
def test_float16_with_float32_statistics_is_silent(target: str) -> None:
    assert faults(normalised_in(TensorProto.FLOAT, "float32"), target) == []


def test_the_same_statistics_in_float16_are_found() -> None:
    found = {(f.rule, f.node) for f in faults(normalised_in(TensorProto.FLOAT16, "float16"), "10.3")}
    assert {("half-variance", "variance"), ("half-epsilon", "plus")} <= found


def test_what_several_rules_see_is_looked_up_through_constants_and_functions() -> None:
    own = '\n<domain: "own", opset_import: ["" : 17]> F (a) => (b) { [inside] d = Det(a) b = Relu(d) }'
    model = model_of("g (float[4, 4] x) => (float y) { [call] y = own.F(x) }" + own)
    found = [(f.rule, f.node) for f in faults(model, "rtx")]
    assert found == [("op-unsupported", "function own:F/inside")]  # and the call itself is of no unknown domain


def test_a_tensor_taken_only_inside_a_branch_is_no_roundtrip() -> None:
    inner = If.replace("(x)", "(q)").format("p", "r", "Relu")
    text = f"g (float[2,4] x, bool c) => (float[2,4] y) {{ [a] h = Cast<to = 10>(x) [b] q = Cast<to = 1>(h) {inner} }}"
    assert [f.node for f in faults(model_of(text), "10.3") if f.rule == "cast-roundtrip"] == ["a"]
    used = text.replace("Relu(q)", "Cast<to = 1>(h)").replace("[b] q = Cast<to = 1>(h)", "")
    assert "cast-roundtrip" not in rules_of(faults(model_of(used), "10.3"))


def test_every_finding_says_what_to_do_and_what_it_stands_on() -> None:
    for _, _, target, _, model in SEEDS:
        for finding in lint(model, target):
            assert finding.target == target
            assert all((finding.reason, finding.remedy, finding.source))


def rules_of(findings: Sequence[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


def test_constants_may_come_from_constant_nodes_behind_identity() -> None:
    value = helper.make_tensor("", TensorProto.FLOAT16, [1], np.asarray([np.inf], np.float16))
    model = model_of(F16 + "{ [i] c = Identity(k) [sum] y = Add(x, c) }")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], name="k", value=value))
    assert ("half-constant", "k") in {(f.rule, f.node) for f in faults(model, "10.3")}


def test_a_loop_that_collects_without_a_trip_count() -> None:
    """The first input is optional though others follow it: leaving it out is no malformed node, but a form not taken."""
    body = "<body = b (int64 i, bool k, float[4] s) => (bool k2, float[4] s2, float[4] c) { k2 = Identity(k) s2 = Relu(s) c = Relu(s) }>"
    model = model_of(f"g (int64 n, bool c, float[4] x) => (float[4] y, float[] z) {{ [loop] y, z = Loop (n, c, x) {body} }}")
    assert "op-form" not in rules_of(faults(model, "rtx"))
    model.graph.node[0].input[0] = ""
    found = [(f.rule, f.node) for f in faults(model, "rtx")]
    assert ("op-form", "loop") in found
    assert "node-malformed" not in rules_of(faults(model, "rtx"))
