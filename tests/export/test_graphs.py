"""The exported graphs against PyTorch, layer by layer, at the released size, on weights drawn anew."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from diffpose_edge.config import BatchShape
from diffpose_edge.export.folded import FoldedFrameEncoder, FoldedStep, tap_names
from diffpose_edge.export.graphs import compare_context, compare_step, context_graph, step_graph
from diffpose_edge.reference import load_released
from diffpose_edge.reference.taps import outputs_with_taps
from diffpose_edge.schedule import ddim_coefficients
from diffpose_edge.tolerances import FP32_LAYER_REL

SHAPE = BatchShape(P=2, N=3)
TIMESTEPS = tuple(range(51))


@pytest.fixture(scope="module")
def model(random_pair):
    return load_released(*random_pair)


@pytest.fixture(scope="module")
def step(model):
    return step_graph(model, SHAPE)


@pytest.fixture(scope="module")
def context(model):
    return context_graph(model, SHAPE)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).normal(0.0, 0.5, SHAPE.state).astype(np.float32)


@pytest.fixture(scope="module")
def uv():
    return np.random.default_rng(4).uniform(-1.0, 1.0, SHAPE.uv).astype(np.float32)


def failures(comparisons):
    return [str(c) for c in comparisons if not c.passed]


def test_every_layer_and_epsilon_at_every_timestep(model, step, x):
    comparisons = compare_step(model, step.model, step.taps, x, TIMESTEPS)
    assert len(comparisons) == len(TIMESTEPS) * (1 + 5 * 7 + 2)
    assert not failures(comparisons)


def test_every_layer_of_the_context_encoder(model, context, uv):
    comparisons = compare_context(model, context.model, context.taps, uv)
    assert len(comparisons) == 1 + 5 * 7 + 1
    assert not failures(comparisons)


def test_taps_cover_what_the_reference_records(model, step, x):
    _, layers = outputs_with_taps(model.denoiser_network, torch.from_numpy(x), 3)
    assert [*layers] == tap_names(5)
    assert set(step.taps) == set(layers)


def test_the_update_is_affine_in_the_coefficients(step, x):
    session = ort.InferenceSession(step.model.SerializeToString(), providers=["CPUExecutionProvider"])
    said_before = np.random.default_rng(8).normal(size=x.shape).astype(np.float32)

    def outputs(*c):
        feed = {"x": x, "timestep": np.array([7], np.float32), "coefficients": np.array(c, np.float32), "previous": said_before}
        return session.run(["x_next", "eps"], feed)

    assert np.array_equal(outputs(1, 0, 0)[0], x)
    assert np.array_equal(outputs(0, 0, 0)[0], np.zeros_like(x))
    assert np.array_equal(outputs(0, 0, 1)[0], said_before)
    eps, said = outputs(0, 1, 0)
    assert np.array_equal(eps, said), "what is given to the next step is not what the update was made with"
    c = (*ddim_coefficients(np.linspace(0.99, 0.5, 51), (7,))[0], np.float32(-0.3))
    expected = c[0] * x + c[1] * eps + c[2] * said_before
    np.testing.assert_allclose(outputs(*c)[0], expected, rtol=0, atol=FP32_LAYER_REL * np.abs(x).max())


@pytest.mark.parametrize("role", ["context", "step"])
def test_graphs_keep_to_what_every_target_reads(role, request):
    traced = request.getfixturevalue(role)
    model = traced.model
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert {n.domain for n in model.graph.node} == {""}
    assert not model.functions
    used = {name for node in model.graph.node for name in node.input}
    assert {i.name for i in model.graph.initializer} <= used, "an initialiser is left over"
    produced = {o for n in model.graph.node for o in n.output} | {i.name for i in model.graph.initializer}
    assert {"Constant", "Identity", "Where", "ScatterND", "Shape", "Expand"}.isdisjoint({n.op_type for n in model.graph.node})
    assert set(traced.taps) <= produced
    assert traced.warnings == ()


def test_step_graph_has_the_step_embedding_as_a_table(step):
    table = next(i for i in step.model.graph.initializer if list(i.dims) == [51, 5 * 96])
    readers = [n.op_type for n in step.model.graph.node if table.name in n.input]
    assert readers == ["Gather"]
    assert not {"Sin", "Cos", "Sigmoid"} & {n.op_type for n in step.model.graph.node}


def test_graph_holds_no_path_or_source_line_of_the_machine_that_made_it(step):
    content = step.model.SerializeToString()
    assert b"/" not in b"".join(p.value.encode() for n in step.model.graph.node for p in n.metadata_props)
    assert b".py" not in content
    assert __file__.rsplit("/", 3)[0].encode() not in content


def test_tracing_twice_gives_the_same_bytes(model, step):
    again = step_graph(model, SHAPE).model
    assert again.SerializeToString(deterministic=True) == step.model.SerializeToString(deterministic=True)


def test_folded_networks_in_float32_are_the_reference(model, x, uv):
    with torch.no_grad():
        state, nothing = torch.from_numpy(x), torch.zeros(SHAPE.state)
        eps = FoldedStep(model.denoiser_network, 51)(state, torch.tensor([12.0]), torch.tensor([0.0, 1.0, 0.0]), nothing)[0]
        expected = model.denoiser(torch.from_numpy(x), 12)
        assert (eps - expected).abs().max() <= FP32_LAYER_REL * expected.abs().max()
        xyz = FoldedFrameEncoder(model.context_network)(torch.from_numpy(uv))[0]
        assert (xyz - model.context(torch.from_numpy(uv))).abs().max() <= FP32_LAYER_REL * xyz.abs().max()


def test_graphs_pass_the_checker_with_full_shape_inference(step, context):
    for traced in (step, context):
        onnx.checker.check_model(traced.model, full_check=True)
