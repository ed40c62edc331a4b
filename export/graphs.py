"""The two graphs of a bundle: the context encoder and one denoiser step, each proved against PyTorch as it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffpose_edge.comparison import Comparison, compare_relative
from diffpose_edge.config import BatchShape
from diffpose_edge.errors import VerificationError
from diffpose_edge.export.folded import FoldedFrameEncoder, FoldedStep, tap_names
from diffpose_edge.export.trace import TracedGraph, onnx_from_module, with_taps_as_outputs
from diffpose_edge.reference.graph_networks import FrameEncoder
from diffpose_edge.reference.mixste import MirrorAverage, MixSTE
from diffpose_edge.reference.released import ReleasedDiffPose
from diffpose_edge.reference.taps import block_names, outputs_with_taps
from diffpose_edge.schedule import ddim_coefficients
from diffpose_edge.tolerances import FP32_LAYER_REL, FP32_VIDEO_LAYER_REL

Array = NDArray[Any]

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


def context_graph(model: ReleasedDiffPose, shape: BatchShape) -> TracedGraph:
    """Trace the context encoder: uv (P, 17, 2) → xyz (P, 17, 3); video: (P, F, 17, 2) → (P, F, 17, 3)."""
    network = model.context_network
    inputs = {"uv": torch.zeros(shape.uv)}
    if isinstance(network, FrameEncoder):
        return onnx_from_module(FoldedFrameEncoder(network), inputs, ["xyz"], tap_names(network.layers), "context")
    assert isinstance(network, MixSTE | MirrorAverage)
    video = network.encoder if isinstance(network, MirrorAverage) else network
    assert isinstance(video, MixSTE)
    return onnx_from_module(_VideoWithTaps(network), inputs, ["xyz"], block_names(video.depth), "context")


def step_graph(model: ReleasedDiffPose, shape: BatchShape) -> TracedGraph:
    """Trace one denoiser step with the DDIM update in it: x (P N, 17, 5), timestep (1,), coefficients (2,) → x_next."""
    folded = FoldedStep(model.denoiser_network, len(model.alpha_bar))
    inputs = {"x": torch.zeros(shape.state), "timestep": torch.zeros(1), "coefficients": torch.zeros(2)}
    taps = [*tap_names(model.denoiser_network.layers), "eps"]
    # The taps follow the output in the order in which FoldedStep returns them: eps comes first there.
    return onnx_from_module(folded, inputs, ["x_next"], [taps[-1], *taps[:-1]], "step")


def session_of(model: onnx.ModelProto, taps: tuple[str, ...] = ()) -> ort.InferenceSession:
    """Return an ONNX Runtime session on the CPU whose outputs include the named values inside the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    content = with_taps_as_outputs(model, taps).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_graph(session: ort.InferenceSession, inputs: dict[str, Array]) -> dict[str, Array]:
    """Run a session and return its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def compare_context(model: ReleasedDiffPose, graph: onnx.ModelProto, taps: tuple[str, ...], uv: Array) -> list[Comparison]:
    """Compare every layer output and the result of a context graph with PyTorch, on uv of the graph's own shape."""
    expected, layers = outputs_with_taps(model.context_network, torch.from_numpy(uv))
    actual = run_graph(session_of(graph, taps), {"uv": uv})
    budget = FP32_LAYER_REL if uv.ndim == 3 else FP32_VIDEO_LAYER_REL
    pairs = {**{name: layers[name].numpy() for name in taps}, "xyz": expected.numpy()}
    return [compare_relative(f"context {name}", actual[name], value, budget) for name, value in pairs.items()]


def compare_step(
    model: ReleasedDiffPose,
    graph: onnx.ModelProto,
    taps: tuple[str, ...],
    x: Array,
    timesteps: tuple[int, ...] = CHECKED_TIMESTEPS,
) -> list[Comparison]:
    """Compare every layer output, epsilon and the updated state of a step graph with PyTorch, at each timestep.

    x has the graph's own shape (P N, 17, 5). The update is taken from each timestep straight to the clean pose.
    """
    comparisons = []
    session = session_of(graph, taps)
    state = torch.from_numpy(x)
    for t in timesteps:
        eps, layers = outputs_with_taps(model.denoiser_network, state, t)
        coefficients = ddim_coefficients(model.alpha_bar, (t,))[0]
        inputs = {"x": x, "timestep": np.array([t], np.float32), "coefficients": coefficients}
        actual = run_graph(session, inputs)
        a_t = float(model.alpha_bar[t])
        x_next = (state - (1.0 - a_t) ** 0.5 * eps) / a_t**0.5
        expected = {**{n: layers[n].numpy() for n in taps if n != "eps"}, "eps": eps.numpy(), "x_next": x_next.numpy()}
        comparisons += [compare_relative(f"step t={t} {n}", actual[n], v, FP32_LAYER_REL) for n, v in expected.items()]
    return comparisons


def proved_graphs(model: ReleasedDiffPose, shape: BatchShape, seed: int = 0) -> dict[str, ProvedGraph]:
    """Trace both graphs and hold each against PyTorch in ONNX Runtime; returns them by role.

    Raises VerificationError, naming the first layer that is off, when a graph does not reproduce PyTorch.
    """
    rng = np.random.default_rng(seed)
    uv = rng.uniform(-1.0, 1.0, shape.uv).astype(np.float32)
    x = rng.normal(0.0, 0.5, shape.state).astype(np.float32)
    context, step = context_graph(model, shape), step_graph(model, shape)
    timesteps = (*CHECKED_TIMESTEPS, len(model.alpha_bar) - 1)
    return {
        "context": _proved("context", context, compare_context(model, context.model, context.taps, uv)),
        "step": _proved("step", step, compare_step(model, step.model, step.taps, x, timesteps)),
    }


def _proved(role: str, traced: TracedGraph, comparisons: list[Comparison]) -> ProvedGraph:
    failed = [c for c in comparisons if not c.passed]
    if failed:
        raise VerificationError(
            f"the exported {role} graph does not reproduce PyTorch; nothing was written. First of {len(failed)} values that "
            f"are off: {failed[0]}. Weights with very large or degenerate values can cause this; otherwise please report it"
        )
    return ProvedGraph(traced, tuple(comparisons))
