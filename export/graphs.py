"""The two graphs of a bundle: the context encoder and one denoiser step, each proved against PyTorch as it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffpose_edge.causal_io import cache_io
from diffpose_edge.comparison import Comparison, compare_relative
from diffpose_edge.config import BatchShape, CausalConfig
from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.errors import VerificationError
from diffpose_edge.export.causal_comparison import clip_length, expected_of, streamed
from diffpose_edge.export.causal_step import CausalStep
from diffpose_edge.export.cpu_graph import as_traced, cpu_graph, rows_of
from diffpose_edge.export.folded import FoldedFrameEncoder, FoldedStep, tap_names
from diffpose_edge.export.onnx_models import with_taps_as_outputs
from diffpose_edge.export.trace import TracedGraph, onnx_from_module
from diffpose_edge.manifest import FOR_CPU
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.diffusion import clean_of
from diffpose_edge.reference.graph_networks import FrameEncoder
from diffpose_edge.reference.mixste import MirrorAverage, MixSTE
from diffpose_edge.reference.released import ReleasedDiffPose
from diffpose_edge.reference.taps import block_names, outputs_with_taps
from diffpose_edge.reference.trained import ConditionedDiffPose
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.schedule import scaled_coefficients, step_coefficients
from diffpose_edge.skeleton import J
from diffpose_edge.tolerances import FP32_CPU_LAYER_REL, FP32_LAYER_REL, FP32_VIDEO_LAYER_REL

Array = NDArray[Any]
DiffPose = ReleasedDiffPose | ConditionedDiffPose

# The timesteps at which a step graph is checked when nothing else is asked: both ends of the schedule and the released ones.
CHECKED_TIMESTEPS = (0, 1, 12)


@dataclass(frozen=True)
class ProvedGraph:
    """A traced graph and the comparisons that it passed."""

    traced: TracedGraph
    comparisons: tuple[Comparison, ...]

    @property
    def content(self) -> bytes:
        """The ONNX file."""
        return self.traced.model.SerializeToString(deterministic=True)


class _VideoWithTaps(nn.Module):
    """A MixSTE, mirror-averaged or not, that also returns its blocks' outputs."""

    def __init__(self, encoder: MixSTE | MirrorAverage):
        super().__init__()
        self.encoder = encoder

    def forward(self, uv: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.encoder, MixSTE):
            blocks = self.encoder.blocks(uv)
            return (self.encoder.head_of(blocks[-1]), *blocks)
        video = self.encoder.encoder
        assert isinstance(video, MixSTE)
        blocks = video.blocks(self.encoder.with_mirrored(uv))
        return (self.encoder.average(video.head_of(blocks[-1])), *blocks)


class _FrameWithFeature(nn.Module):
    """A folded frame encoder that gives xyz, f_ST and then the other layers' outputs: f_ST is the last of them."""

    def __init__(self, encoder: FrameEncoder):
        super().__init__()
        self.folded = FoldedFrameEncoder(encoder)

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        xyz, *taps = self.folded(observation)
        return (xyz, taps[-1], *taps[:-1])


class _VideoWithFeature(nn.Module):
    """A MixSTE that gives xyz, f_ST and then its blocks' outputs."""

    def __init__(self, encoder: MixSTE):
        super().__init__()
        self.encoder = encoder

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        blocks = self.encoder.blocks(observation)
        feature = self.encoder.feature_of(blocks[-1])
        return (self.encoder.head(feature), feature.contiguous(), *blocks)


def context_taps(network: nn.Module, conditioned: bool) -> list[str]:
    """Return the names of the layer outputs inside a context graph."""
    if isinstance(network, FrameEncoder):
        # Of a conditioned pair the last layer's output is not inside the graph: it is the output "feature".
        return tap_names(network.layers)[: -1 if conditioned else None]
    if isinstance(network, CausalMixSTE):
        return block_names(network.depth)[:-1]
    video = network.encoder if isinstance(network, MirrorAverage) else network
    assert isinstance(video, MixSTE)
    return block_names(video.depth)


def context_graph(model: DiffPose, shape: BatchShape) -> TracedGraph:
    """Trace the context encoder: uv (P, 17, 2) → xyz (P, 17, 3); video: (P, F, 17, 2) → (P, F, 17, 3).

    That of a conditioned pair takes the observation (P, 17, 6) and gives xyz and feature (P, 17, C'). That of a causal encoder takes
    one frame, and the caches besides (:func:`diffpose_edge.causal_io.cache_io`).
    """
    network = model.context_network
    if isinstance(network, CausalMixSTE):
        return _causal_graph(model, network, shape)
    if isinstance(model, ConditionedDiffPose):
        assert isinstance(network, FrameEncoder | MixSTE)
        inputs = {"observation": torch.zeros((*shape.uv[:-1], network.channels))}
        module = _FrameWithFeature(network) if isinstance(network, FrameEncoder) else _VideoWithFeature(network)
        return onnx_from_module(module, inputs, ["xyz", "feature"], context_taps(network, True), "context")
    inputs = {"uv": torch.zeros(shape.uv)}
    if isinstance(network, FrameEncoder):
        return onnx_from_module(FoldedFrameEncoder(network), inputs, ["xyz"], tap_names(network.layers), "context")
    assert isinstance(network, MixSTE | MirrorAverage)
    video = network.encoder if isinstance(network, MirrorAverage) else network
    assert isinstance(video, MixSTE)
    return onnx_from_module(_VideoWithTaps(network), inputs, ["xyz"], block_names(video.depth), "context")


def _causal_graph(model: DiffPose, network: CausalMixSTE, shape: BatchShape) -> TracedGraph:
    config = model.context_config
    assert isinstance(config, CausalConfig)
    taken, given = cache_io(config, shape.P)
    inputs = {"observation": torch.zeros(shape.P, J, network.channels), **{name: torch.zeros(size) for name, size in taken.items()}}
    return onnx_from_module(CausalStep(network), inputs, ["xyz", "feature", *given], context_taps(network, True), "context")


def step_graph(model: DiffPose, shape: BatchShape) -> TracedGraph:
    """Trace one denoiser step with its update in it: x (P N, 17, 5), timestep (1,), coefficients (3,), previous (P N, 17, 5)
    → x_next = c0 x + c1 eps + c2 previous, and eps, which is ``previous`` to the next step (:mod:`diffpose_edge.samplers`).

    That of a conditioned denoiser also takes feature (P, 17, C') and start (P N, 17, 10).
    """
    folded = FoldedStep(model.denoiser_network, len(model.alpha_bar), shape.N)
    inputs = {
        "x": torch.zeros(shape.state),
        "timestep": torch.zeros(1),
        "coefficients": torch.zeros(3),
        "previous": torch.zeros(shape.state),
    }
    if model.denoiser_network.condition_width:
        inputs["feature"] = torch.zeros(shape.P, J, model.denoiser_network.condition_width)
        inputs["start"] = torch.zeros((*shape.state[:-1], START_CHANNELS))
    return onnx_from_module(folded, inputs, ["x_next", "eps"], tap_names(model.denoiser_network.layers), "step")


def session_of(model: onnx.ModelProto, taps: tuple[str, ...] = ()) -> ort.InferenceSession:
    """Return an ONNX Runtime session on the CPU whose outputs include the named values inside the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    content = with_taps_as_outputs(model, taps).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def input_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a graph's inputs by name, in their order."""
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in model.graph.input}


def run_graph(session: ort.InferenceSession, inputs: dict[str, Array]) -> dict[str, Array]:
    """Run a session and return its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def compare_context(model: DiffPose, graph: onnx.ModelProto, taps: tuple[str, ...], observation: Array) -> list[Comparison]:
    """Compare every layer output and the results of a context graph with PyTorch.

    ``observation`` has the graph's own input shape: u, v for a released pair, 6 channels for a conditioned one. For a causal encoder
    it is a clip (S, P, 17, 6), and every frame of it is compared, from empty caches on.
    """
    network = model.context_network
    if isinstance(network, CausalMixSTE):
        assert isinstance(model.context_config, CausalConfig)
        results = streamed(session_of(graph, taps), observation, FrameCaches(model.context_config, observation.shape[1]))
        wanted = expected_of(network, observation)
        return [compare_relative(f"context {name}", results[name], value, FP32_VIDEO_LAYER_REL) for name, value in wanted.items()]
    expected, layers = outputs_with_taps(network, torch.from_numpy(observation))
    pairs = {**{name: layers[name].numpy() for name in taps}, "xyz": expected.numpy()}
    if isinstance(model, ConditionedDiffPose):
        pairs["feature"] = model.context_and_feature(torch.from_numpy(observation))[1].numpy()
    actual = run_graph(session_of(graph, taps), {graph.graph.input[0].name: observation})
    budget = _layer_budget(graph) if observation.ndim == 3 else FP32_VIDEO_LAYER_REL
    return [
        compare_relative(f"context {name}", as_traced(graph, actual[name], value.shape), value, budget) for name, value in pairs.items()
    ]


def compare_step(
    model: DiffPose,
    graph: onnx.ModelProto,
    taps: tuple[str, ...],
    x: Array,
    timesteps: tuple[int, ...] = CHECKED_TIMESTEPS,
    feature: Array | None = None,
    start: Array | None = None,
) -> list[Comparison]:
    """Compare every layer output, the prediction and the updated state of a step graph with PyTorch, at each timestep.

    x has the graph's own shape (P N, 17, 5); so have feature (P, 17, C') and start (P N, 17, 10), for a conditioned
    denoiser. The update is DDIM's from each timestep straight to the clean pose, and half of the previous output besides, for
    which x stands.
    """
    comparisons = []
    session = session_of(graph, taps)
    state = torch.from_numpy(x)
    told: dict[str, Array] = {} if feature is None or start is None else {"feature": feature, "start": start}
    if feature is not None and start is not None:
        per_sample = torch.from_numpy(feature).repeat_interleave(len(x) // len(feature), dim=0)
        arguments: tuple[Tensor, ...] = (per_sample, torch.from_numpy(start))
    else:
        arguments = ()
    for t in timesteps:
        eps, layers = outputs_with_taps(model.denoiser_network, state, t, *arguments)
        a_t = float(model.alpha_bar[t])
        if isinstance(model, ConditionedDiffPose):
            # x is sqrt(a_t) x_t there.
            coefficients = scaled_coefficients(model.alpha_bar, (t,), model.prediction)[0]
            x_next = clean_of(state / a_t**0.5, eps, a_t, model.prediction)
        else:
            coefficients = step_coefficients(model.alpha_bar, (t,), model.prediction)[0]
            x_next = clean_of(state, eps, a_t, model.prediction)
        remembering = np.append(coefficients, np.float32(0.5))
        inputs = {"x": x, "timestep": np.array([t], np.float32), "coefficients": remembering, "previous": x, **told}
        actual = run_graph(session, inputs)
        expected = {**{n: layers[n].numpy() for n in taps}, "eps": eps.numpy(), "x_next": x_next.numpy() + 0.5 * x}
        comparisons += [
            compare_relative(f"step t={t} {n}", as_traced(graph, actual[n], v.shape), v, _layer_budget(graph)) for n, v in expected.items()
        ]
    return comparisons


def _layer_budget(graph: onnx.ModelProto) -> float:
    return FP32_LAYER_REL if rows_of(graph) is None else FP32_CPU_LAYER_REL


def proved_graphs(model: DiffPose, shape: BatchShape, seed: int = 0) -> dict[tuple[str, str], ProvedGraph]:
    """Trace both graphs, make those for the CPU of them, and hold each against PyTorch in ONNX Runtime; by role and precision.

    A video encoder, causal or not, has none for the CPU: the passes are for networks of graph convolutions.

    Raises VerificationError, naming the first layer that is off, when a graph does not reproduce PyTorch.
    """
    rng = np.random.default_rng(seed)
    context, step = context_graph(model, shape), step_graph(model, shape)
    (observed, *_), step_shapes = (input_shapes(graph.model).values() for graph in (context, step))
    if isinstance(model.context_config, CausalConfig):
        observed = (clip_length(model.context_config), *observed)
    observation = rng.uniform(-1.0, 1.0, observed).astype(np.float32)
    x = rng.normal(0.0, 0.5, shape.state).astype(np.float32)
    # After x, timestep, coefficients and previous: feature and start, if the step takes them.
    conditions = [rng.normal(0.0, 1.0, size).astype(np.float32) for size in list(step_shapes)[4:]]
    last = len(model.alpha_bar) - 1
    timesteps = tuple(sorted({*(t for t in CHECKED_TIMESTEPS if t < last), last}))

    def of_context(graph: TracedGraph) -> list[Comparison]:
        return compare_context(model, graph.model, graph.taps, observation)

    def of_step(graph: TracedGraph) -> list[Comparison]:
        return compare_step(model, graph.model, graph.taps, x, timesteps, *conditions)

    proved = {("context", "fp32"): _proved("context", context, of_context), ("step", "fp32"): _proved("step", step, of_step)}

    def of_free_step(graph: TracedGraph) -> list[Comparison]:
        """Of a graph that takes any number of samples: of all of them, and of one of each person."""
        firsts = [array if len(array) == shape.P else array[:: shape.N] for array in conditions]
        return of_step(graph) + compare_step(model, graph.model, graph.taps, x[:: shape.N], timesteps[-1:], *firsts)

    of_cpu_step = of_free_step if shape.N > 1 else of_step
    proved["step", "fp32" + FOR_CPU] = _proved_for_cpu("step", step, shape.P * shape.N, of_cpu_step, free=shape.N > 1)
    if isinstance(model.context_network, FrameEncoder):
        proved["context", "fp32" + FOR_CPU] = _proved_for_cpu("context", context, shape.P, of_context)
    return proved


Comparing = Callable[[TracedGraph], list[Comparison]]


def _proved_for_cpu(role: str, portable: TracedGraph, samples: int, comparing: Comparing, free: bool = False) -> ProvedGraph:
    """Return the graph for the CPU; with the released LayerNorm where the fused one, which is not quite the same, errs too much."""
    graph = replace(portable, model=cpu_graph(portable.model, samples, free=free))
    comparisons = comparing(graph)
    if all(c.passed for c in comparisons):
        return ProvedGraph(graph, tuple(comparisons))
    exact = replace(portable, model=cpu_graph(portable.model, samples, fused_norms=False, free=free))
    return _proved(f"{role} (for the CPU)", exact, comparing)


def _proved(name: str, traced: TracedGraph, comparing: Comparing) -> ProvedGraph:
    comparisons = comparing(traced)
    failed = [c for c in comparisons if not c.passed]
    if failed:
        raise VerificationError(
            f"the exported {name} graph does not reproduce PyTorch; nothing was written. First of {len(failed)} values that "
            f"are off: {failed[0]}. Weights with very large or degenerate values can cause this; otherwise please report it"
        )
    return ProvedGraph(traced, tuple(comparisons))
