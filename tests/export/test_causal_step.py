"""The one-frame graph of a causal encoder over its caches: PyTorch's run of the whole clip, and which of its bits depend on what."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from diffpose_edge.clips import street_walk
from diffpose_edge.config import BatchShape
from diffpose_edge.export import graphs
from diffpose_edge.export.causal_comparison import clip_length, expected_of, streamed
from diffpose_edge.export.verification import verify_bundle
from diffpose_edge.reference.random_weights import write_random_conditioned_pair
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.tolerances import FP32_VIDEO_LAYER_REL

SHAPE = BatchShape(P=2, N=3)
F, L = 4, 2


@pytest.fixture(scope="module")
def model(causal_pair):
    return load_conditioned(*causal_pair)


@pytest.fixture(scope="module")
def traced(model):
    return graphs.context_graph(model, SHAPE)


@pytest.fixture(scope="module")
def session(traced):
    return graphs.session_of(traced.model, traced.taps)


@pytest.fixture(scope="module")
def clip(model):
    rng = np.random.default_rng(4)
    return rng.uniform(-1.0, 1.0, (clip_length(model.context_config), SHAPE.P, 17, 6)).astype(np.float32)


@pytest.fixture
def caches(model):
    return FrameCaches(model.context_config, SHAPE.P)


def off(model, results, clip) -> dict[str, np.ndarray]:
    """The layers that are off, each with which frames are."""
    found = {}
    for name, value in expected_of(model.context_network, clip).items():
        error = np.abs(results[name] - value).reshape(len(clip), -1).max(axis=1) / np.abs(value).max()
        if (error > FP32_VIDEO_LAYER_REL).any():
            found[name] = np.flatnonzero(error > FP32_VIDEO_LAYER_REL)
    return found


# equal to PyTorch


def test_every_layer_of_every_frame_is_that_of_the_whole_clip(model, traced, clip):
    comparisons = graphs.compare_context(model, traced.model, traced.taps, clip)
    assert {c.name.split()[-1] for c in comparisons} == {"spatial0", "temporal0", "spatial1", "feature", "xyz"}
    assert not [str(c) for c in comparisons if not c.passed]


def test_an_export_proves_it(model):
    comparisons = graphs.proved_graphs(model, SHAPE)["context", "fp32"].comparisons
    assert len(comparisons) == 2 * L + 1


def test_the_graph_keeps_to_what_every_target_reads(traced):
    graph = traced.model.graph
    assert [(o.domain, o.version) for o in traced.model.opset_import] == [("", 17)]
    assert {n.domain for n in graph.node} == {""}
    forbidden = {"Constant", "Identity", "Where", "ScatterND", "GatherND", "Shape", "Expand"}
    assert forbidden.isdisjoint({n.op_type for n in graph.node})
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in (*graph.input, *graph.output))
    assert traced.warnings == ()


def test_caches_are_read_where_they_lie(traced):
    """No node but the matmul takes them: they are neither joined to anything, nor turned, nor cut."""
    for value in traced.model.graph.input:
        if value.name.startswith(("keys", "values")):
            assert [node.op_type for node in traced.model.graph.node if value.name in node.input] == ["MatMul"]


# planted faults


class OffByOneSlot(FrameCaches):
    """Keys go into one slot and values into the next."""

    def store(self, person):
        for i in range(self.layers):
            self.taken[f"values{i}"][person, :, :, (self.slot_of(person) + 1) % (F - 1)] = self.given[f"value{i}"][person]
            self.taken[f"keys{i}"][person, ..., self.slot_of(person)] = self.given[f"key{i}"][person]
        self.skip(person)
        self.ages[person, self.slot_of(person)] = 1.0
        self.stored[person] += 1


class StaleSlot(FrameCaches):
    """One frame of the second layer, the sixth, is never written; its age says that it was."""

    def store(self, person):
        kept = self.taken["keys1"][person].copy(), self.taken["values1"][person].copy()
        sixth = self.stored[person] == 5
        super().store(person)
        if sixth:
            self.taken["keys1"][person], self.taken["values1"][person] = kept


class AgesLate(FrameCaches):
    """A frame counts as no older than when it came."""

    def store(self, person):
        super().store(person)
        self.ages[person, (self.stored[person] - 1) % (F - 1)] = 0.0


class KeptTooLong(FrameCaches):
    """A frame that fell out of the window is still there, as old as the oldest may be."""

    def __init__(self, config, P):
        super().__init__(config, P)
        self.ages[...] = config.frames - 1


class OthersMemory(FrameCaches):
    """People's memories are exchanged."""

    def store(self, person):
        for name in self.given:
            self.given[name][...] = self.given[name][::-1] if person == 0 else self.given[name]
        super().store(person)


@pytest.mark.parametrize(
    ("fault", "layer", "frame"),
    [
        (OffByOneSlot, "temporal0", 1),
        (AgesLate, "temporal0", 1),
        (KeptTooLong, "temporal0", 0),
        (OthersMemory, "temporal0", 1),
        (StaleSlot, "feature", 6),
    ],
)
def test_a_fault_in_the_caches_is_found_in_the_layer_and_frame_where_it_begins(model, session, clip, fault, layer, frame):
    found = off(model, streamed(session, clip, fault(model.context_config, SHAPE.P)), clip)
    first = next(name for name in ("spatial0", "temporal0", "spatial1", "feature") if name in found)
    assert (first, found[first][0]) == (layer, frame)


@pytest.mark.parametrize(("layer", "name"), [(0, "temporal0"), (1, "feature")])
def test_biases_of_other_ages_are_found(model, traced, clip, caches, layer, name):
    wrong = onnx.ModelProto()
    wrong.CopyFrom(traced.model)
    (table,) = [t for t in wrong.graph.initializer if t.name.endswith(f"age_table{layer}")]
    rows = numpy_helper.to_array(table).copy()
    rows[1:F] = np.roll(rows[1:F], 1, axis=0)
    table.CopyFrom(numpy_helper.from_array(rows, table.name))
    found = off(model, streamed(graphs.session_of(wrong, traced.taps), clip, caches), clip)
    order = ("spatial0", "temporal0", "spatial1", "feature")
    assert next(n for n in order if n in found) == name


# bit for bit


def same(a, b, last: int = 1) -> bool:
    return all(np.array_equal(a[name][-last:], b[name][-last:]) for name in ("xyz", "feature"))


def test_frame_by_frame_is_bit_for_bit_its_own_run_of_the_clip(model, session, clip):
    """However a clip is cut into calls, with its caches carried over."""
    whole = streamed(session, clip, FrameCaches(model.context_config, SHAPE.P))
    carried = FrameCaches(model.context_config, SHAPE.P)
    parts = [streamed(session, clip[part], carried) for part in (slice(0, 3), slice(3, 4), slice(4, None))]
    joined = {name: np.concatenate([p[name] for p in parts]) for name in whole}
    assert same(whole, joined, len(clip))


@pytest.mark.parametrize("first", range(5))
def test_a_run_over_what_a_frame_depends_on_gives_its_bits_where_slots_fall_together(model, session, clip, first):
    """From frame ``first`` on, with nothing known before. L (F - 1) frames later all is as if nothing had been cut off: to the last
    bit when the frames lie in the same slots, which is when a multiple of F - 1 was cut off, and else but for rounding."""
    whole = streamed(session, clip, FrameCaches(model.context_config, SHAPE.P))
    cut = streamed(session, clip[first:], FrameCaches(model.context_config, SHAPE.P))
    covered = len(clip) - first - L * (F - 1)
    assert covered > 0
    if first % (F - 1) == 0:
        assert same(whole, cut, covered)
    for name in ("xyz", "feature"):
        error = np.abs(whole[name][-covered:] - cut[name][-covered:]).max() / np.abs(whole[name]).max()
        assert error <= FP32_VIDEO_LAYER_REL
    if first:
        earlier = np.abs(whole["xyz"][first] - cut["xyz"][0]).max() / np.abs(whole["xyz"]).max()
        assert earlier > 10 * FP32_VIDEO_LAYER_REL, "what came before should matter"


def test_a_slot_without_a_frame_has_no_weight_at_all(session, clip, caches, model):
    """Whatever finite numbers lie in it: what is forgotten is forgotten to the last bit."""
    rng = np.random.default_rng(6)
    for name, array in caches.taken.items():
        if name != "ages":
            array[...] = 100.0 * rng.standard_normal(array.shape)
    fresh = FrameCaches(model.context_config, SHAPE.P)
    assert same(streamed(session, clip, caches), streamed(session, clip, fresh), len(clip))


def test_a_bundle_is_verified_on_a_real_clip(causal_bundle, causal_pair, tmp_path):
    report = verify_bundle(causal_bundle, *causal_pair, street_walk().keypoints)
    assert report.passed
    assert report.frames == 64
    other = write_random_conditioned_pair(tmp_path, seed=10, frames=4, causal=True)
    assert not verify_bundle(causal_bundle, *other, street_walk().keypoints, timesteps=(9,)).passed
