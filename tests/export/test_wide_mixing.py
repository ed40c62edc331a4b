"""The passes around mixings of joints that come first: each finds what it is for, keeps the function, and leaves the rest alone."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.export.eigenbasis import chebyshev_in_eigenbasis, laplacian_eigenbasis
from diffpose_edge.export.projected_chebyshev import chebyshev_after_projection
from diffpose_edge.export.row_form import to_row_form
from diffpose_edge.export.trace import onnx_from_module
from diffpose_edge.export.wide_mixing import fuse_sums_into_mixings, mix_where_narrower, relu_within_mixings, split_stacked_matmuls
from diffpose_edge.skeleton import J

B, C = 3, 24
RNG = np.random.default_rng(5)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model_of(nodes, constants, inputs, outputs=("y",)) -> ir.Model:
    """Return a graph with shapes; ``nodes``: (operator, inputs, outputs)."""
    made = [helper.make_node(op, i.split(), o.split(), **dict(*attributes)) for op, i, o, *attributes in nodes]
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(made, "g", taken, given, initialisers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def results(model: ir.Model, inputs):
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


ROWS, WIDE = np.array([J * B, C], np.int64), np.array([J, -1], np.int64)
FIRST_IS_ONE = np.concatenate([np.ones((J, 1), np.float32), drawn(J, J - 1)], axis=1)
STACK = drawn(J, C, C)
STACK[4] = STACK[3]
STACK[16] = STACK[15]
STACKED = [
    ("MatMul", "x w", "m"),
    ("Reshape", "m wide", "r"),
    ("Gemm", "u r", "g"),
    ("Reshape", "g rows", "q"),
    ("Add", "q row", "s"),
    ("Relu", "s", "y"),
]


def stacked(nodes=STACKED, outputs=("y",), **constants) -> ir.Model:
    known = {"w": STACK, "u": FIRST_IS_ONE, "row": drawn(C), "wide": WIDE, "rows": ROWS}
    return model_of(nodes, {**known, **constants}, {"x": (J, B, C)}, outputs)


def test_a_stack_is_split_and_the_row_goes_to_the_first_product():
    model = stacked()
    x = {"x": drawn(J, B, C)}
    (before,) = results(model, x)
    assert split_stacked_matmuls(model) == 1
    assert "Add" not in kinds(model)
    # Neighbours that are equal are multiplied by once; what is equal elsewhere would have to be brought together first.
    assert kinds(model).count("MatMul") == 15 - 1
    np.testing.assert_allclose(results(model, x)[0], before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_a_row_that_is_computed_is_there_before_the_product_it_is_added_to():
    nodes = [*STACKED[:-2], ("Mul", "row two", "late"), ("Add", "q late", "s"), STACKED[-1]]
    model = stacked(nodes, row=drawn(1, C), two=np.float32([2.0]))
    x = {"x": drawn(J, B, C)}
    (before,) = results(model, x)
    split_stacked_matmuls(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(results(model, x)[0], before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("the mixing's first column is not 1", {"u": FIRST_IS_ONE * np.float32(1.5)}),
        ("it is no row, but differs from joint to joint", {"row": drawn(J * B, C)}),
    ],
)
def test_what_is_added_otherwise_stays(what, change):
    model = stacked(**change)
    x = {"x": drawn(J, B, C)}
    (before,) = results(model, x)
    assert split_stacked_matmuls(model) == 1
    assert kinds(model).count("Add") == 1, what
    np.testing.assert_allclose(results(model, x)[0], before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("output", ["q", "s"])
def test_a_row_stays_apart_where_somebody_reads_what_is_before_or_behind_it(output):
    model = stacked(outputs=("y", output))
    x = {"x": drawn(J, B, C)}
    before = results(model, x)
    split_stacked_matmuls(model)
    assert kinds(model).count("Add") == 1
    for one, other in zip(results(model, x), before, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_a_product_that_is_added_in_a_mixing_keeps_its_row_apart():
    """As the third operand it is not mixed: a row added to one joint of it would stay there."""
    nodes = [*STACKED[:2], ("Gemm", "u z r", "g"), *STACKED[3:]]
    known = {"w": STACK, "u": FIRST_IS_ONE, "row": drawn(C), "wide": WIDE, "rows": ROWS}
    model = model_of(nodes, known, {"x": (J, B, C), "z": (J, B * C)})
    inputs = {"x": drawn(J, B, C), "z": drawn(J, B * C)}
    (before,) = results(model, inputs)
    split_stacked_matmuls(model)
    np.testing.assert_allclose(results(model, inputs)[0], before, rtol=0, atol=1e-5 * np.abs(before).max())


SUM = [("Gemm", "u x", "g"), ("Reshape", "g rows", "q"), ("Add", "q z", "s"), ("Relu", "s", "y")]
TAKEN = {"x": (J, B * C), "z": (J * B, C)}
SUM_CONSTANTS = {"u": drawn(J, J), "rows": ROWS}


@pytest.mark.parametrize("operands", ["q z", "z q"])
def test_a_sum_and_a_positive_part_go_into_the_mixing(operands):
    nodes = [*SUM[:2], ("Add", operands, "s"), SUM[3]]
    model = model_of(nodes, SUM_CONSTANTS, TAKEN)
    inputs = {name: drawn(*shape) for name, shape in TAKEN.items()}
    (before,) = results(model, inputs)
    assert fuse_sums_into_mixings(model) == 1
    assert relu_within_mixings(model) == 1
    assert kinds(model) == ["Reshape", "Gemm", "Relu", "Reshape"]
    assert (before == 0).any()
    np.testing.assert_allclose(results(model, inputs)[0], before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("what", "nodes", "outputs"),
    [
        ("a mixing that has its sum", [("Gemm", "u x c", "g"), *SUM[1:]], ("y",)),
        ("rows that are an output", SUM, ("y", "q")),
        ("a mixing that is an output", SUM, ("y", "g")),
        ("no mixing by a constant", [("Gemm", "x k", "g"), *SUM[1:]], ("y",)),
        ("a scaled mixing", [("Gemm", "u x", "g", [("alpha", 2.0)]), *SUM[1:]], ("y",)),
        ("a row instead of rows", [*SUM[:2], ("Add", "q row", "s"), SUM[3]], ("y",)),
    ],
)
def test_other_sums_stay(what, nodes, outputs):
    constants = {**SUM_CONSTANTS, "c": drawn(J, B * C), "k": drawn(B * C, B * C), "row": drawn(C)}
    model = model_of(nodes, constants, TAKEN, outputs)
    assert fuse_sums_into_mixings(model) == 0, what
    assert kinds(model).count("Add") == 1, what


@pytest.mark.parametrize("nodes", [SUM, [*SUM[:2], ("Relu", "q", "y"), ("Add", "q z", "s")]], ids=["behind a sum", "of what is read twice"])
def test_other_positive_parts_stay(nodes):
    model = model_of(nodes, SUM_CONSTANTS, TAKEN, ("y",) if nodes is SUM else ("y", "s"))
    assert relu_within_mixings(model) == 0


WIDER = [
    ("Reshape", "x rows", "r0"),
    ("Reshape", "r0 wide", "w0"),
    ("Gemm", "u w0", "g"),
    ("Reshape", "g rows", "q"),
    ("Gemm", "q m b", "y"),
]


@pytest.mark.parametrize("B", [1, 3])
def test_joints_are_mixed_where_there_are_fewer_channels(B):
    nodes = WIDER if B > 1 else [("Gemm", "u x", "q"), WIDER[-1]]
    constants = {"u": drawn(J, J), "m": drawn(C, 5), "b": drawn(5), "wide": WIDE, "rows": np.array([J * B, C], np.int64)}
    model = model_of(nodes, constants, {"x": (J * B, C)})
    x = {"x": drawn(J * B, C)}
    (before,) = results(model, x)
    assert mix_where_narrower(model) == 1
    assert [n.op_type for n in model.graph if n.op_type in ("MatMul", "Gemm")] == ["MatMul", "Gemm"]
    np.testing.assert_allclose(results(model, x)[0], before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("what", "nodes", "change"),
    [
        ("the matmul widens", WIDER, {"m": drawn(C, C + 1), "b": drawn(C + 1)}),
        ("it has no row", [*WIDER[:-1], ("Gemm", "q m", "y")], {}),
        ("somebody else reads what is mixed", [*WIDER[:-1], ("Relu", "q", "z"), WIDER[-1]], {}),
        ("what is mixed was no rows", [("Relu", "x", "w0"), *WIDER[2:]], {}),
    ],
)
def test_other_mixings_stay_where_they_are(what, nodes, change):
    constants = {"u": drawn(J, J), "m": drawn(C, 5), "b": drawn(5), "wide": WIDE, "rows": ROWS, **change}
    x = (J, B * C) if "no rows" in what else (J * B, C)
    model = model_of(nodes, constants, {"x": x}, ("y", "z") if "else" in what else ("y",))
    assert mix_where_narrower(model) == 0, what


@pytest.mark.parametrize("form", [chebyshev_in_eigenbasis, chebyshev_after_projection])
def test_a_convolution_behind_its_passes_is_the_convolution(form):
    """From PyTorch to the last pass that changes it, with a row of its own and a Relu."""
    torch = pytest.importorskip("torch")
    from diffpose_edge.export.folded import MixThenProject
    from diffpose_edge.reference.layers import ChebConv

    torch.manual_seed(1)
    layer = ChebConv(C, C)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.4)

    class Convolution(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = MixThenProject(layer)

        def forward(self, x):
            return torch.relu(self.conv(x))

    for samples in (2, 7):
        x = torch.from_numpy(drawn(samples, J, C))
        traced = onnx_from_module(Convolution(), {"x": torch.zeros_like(x)}, ["y"]).model
        model = ir.from_proto(onnx.shape_inference.infer_shapes(traced, data_prop=True))
        assert form(model) == 1
        to_row_form(model)
        assert split_stacked_matmuls(model) == (form is chebyshev_in_eigenbasis)
        assert fuse_sums_into_mixings(model) == (0 if form is chebyshev_in_eigenbasis else 2)
        assert relu_within_mixings(model) == 1
        expected = Convolution()(x).detach().numpy()
        (found,) = results(model, {"x": x.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_the_first_eigenvector_is_one_and_equal_eigenvalues_are_equal():
    U, values, U_inverse = laplacian_eigenbasis()
    np.testing.assert_array_equal(U[:, 0], 1.0)
    np.testing.assert_allclose(U_inverse @ np.ones(J), np.eye(J)[0], atol=1e-13)
    assert len(set(values)) == 14
    assert sorted(np.unique(values, return_counts=True)[1]) == [1] * 11 + [2] * 3
