"""Every peer computes what the reference computes, and would be found out if it did not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffpose_edge.benchmarks.bench_rounds import measured
from diffpose_edge.benchmarks.peers.candidate import PeerCandidate, frame
from diffpose_edge.benchmarks.peers.eager_released import EagerReleased, _ChebConv
from diffpose_edge.benchmarks.peers.peer import PEERS, Peer, Setting, load_peer, released_pair
from diffpose_edge.comparison import Comparison, compare_poses, compare_relative
from diffpose_edge.errors import CheckpointError, CudaError, DiffPoseEdgeError, MissingPackage
from diffpose_edge.export import export_bundle
from diffpose_edge.extras import is_installed
from diffpose_edge.reference.checkpoints import denoiser_from_file, save_released
from diffpose_edge.reference.diffusion import ddim_trajectory
from diffpose_edge.reference.random_weights import write_random_pair
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.tolerances import FP32_LAYER_REL, FP32_STATE_REL, pose_budget_mm

P, N, LAYERS = 2, 3, 2
TIMESTEPS = (50, 31, 12, 0)

MARKED = [
    pytest.param(
        name,
        marks=[
            *([pytest.mark.slow] if name in ("torch-compiled", "plain-onnx") else []),
            *([pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")] if name == "openvino" else []),
        ],
    )
    for name in PEERS
    if name != "torch-cuda-graph"  # needs a GPU
]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """A peer has a process to itself, and sets it up; here others come after it."""
    threads = torch.get_num_threads()
    with patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)


def setting_of(folder: Path, denoiser: Path, context: Path) -> Setting:
    """A setting, with the bundle exported for it."""
    export_bundle(denoiser, context, folder / "bundle", persons=P, samples=N)
    return Setting(str(denoiser), str(context), str(folder / "bundle"), str(folder / "scratch"))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("peers")
    return setting_of(folder, *write_random_pair(folder, seed=11, hidden=32, layers=LAYERS))


@pytest.fixture(scope="module")
def faulty(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The same weights, but for q and k of one attention layer, which are exchanged."""
    folder = tmp_path_factory.mktemp("faulty")
    denoiser = denoiser_from_file(setting.denoiser)
    q, k = denoiser.atten_layers[-1].self_attn.linears[:2]
    q.weight.data, k.weight.data = k.weight.data, q.weight.data
    save_released(denoiser, folder / "denoiser.pth")
    return setting_of(folder, folder / "denoiser.pth", Path(setting.context))


@pytest.fixture(scope="module")
def people() -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.7, 0.7, (P, 17, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def walked(setting: Setting, people: np.ndarray) -> np.ndarray:
    """The runtime's states (K + 1, P N, 17, 5) from a start with noise: of N samples that differ."""
    with PoseRuntime.load(setting.bundle, threads=1) as runtime:
        trajectory = runtime.estimate(people, seed=4, timesteps=TIMESTEPS, mode="noised", trace=True).trajectory
    assert trajectory is not None
    return trajectory.reshape(len(TIMESTEPS) + 1, P * N, 17, 5)


def epsilons(peer: Peer, setting: Setting, x: np.ndarray) -> list[Comparison]:
    """A peer's epsilon of x at each timestep, held against the reference's for the checkpoints of ``setting``."""
    model = released_pair(setting)
    expected = {t: model.denoiser(torch.from_numpy(x), t).numpy() for t in TIMESTEPS}
    return [compare_relative(f"eps t={t}", peer.epsilon(x, t), eps, FP32_LAYER_REL) for t, eps in expected.items()]


@pytest.mark.parametrize("name", MARKED)
def test_a_peer_computes_what_the_reference_and_the_runtime_compute(
    name: str, setting: Setting, people: np.ndarray, walked: np.ndarray
) -> None:
    model = released_pair(setting)
    with closing(load_peer(name, setting)) as peer:
        assert [str(c) for c in epsilons(peer, setting, walked[0]) if not c.passed] == []
        given, seconds = walked[0].copy(), np.zeros(len(TIMESTEPS))
        last = peer.walk(given, TIMESTEPS, seconds)
        np.testing.assert_array_equal(given, walked[0])  # what it is given stays as it was
        again = peer.walk(given, TIMESTEPS, seconds)
        np.testing.assert_array_equal(last, again)
        assert (seconds > 0).all()
        reference = ddim_trajectory(model.denoiser, torch.from_numpy(walked[0]), model.alpha_bar, TIMESTEPS)[-1].numpy()
        for other in (reference, walked[-1]):
            compared = compare_relative("last state", last, other, FP32_STATE_REL)
            assert compared.passed, str(compared)
        joints, stages = frame(peer, people, N, TIMESTEPS)
        assert peer.describe()
    with PoseRuntime.load(setting.bundle, threads=1) as runtime:
        ours = runtime.estimate(people, timesteps=TIMESTEPS).joints
    compared = compare_poses("pose", joints, ours, pose_budget_mm(float(np.abs(ours).max())))
    assert compared.passed, str(compared)
    assert stages.shape == (len(TIMESTEPS) + 3,)
    assert (stages > 0).all()
    assert stages[-1] >= stages[:-1].sum()


@pytest.mark.parametrize("name", MARKED)
def test_a_peer_with_other_weights_would_be_found_out(name: str, setting: Setting, faulty: Setting, walked: np.ndarray) -> None:
    with closing(load_peer(name, faulty)) as peer:
        assert all(c.measured > 100 * FP32_LAYER_REL for c in epsilons(peer, setting, walked[0]))
        assert all(c.passed for c in epsilons(peer, faulty, walked[0]))


def test_a_polynomial_that_is_off_would_be_found_out(setting: Setting, walked: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    right = _ChebConv.polynomials

    def wrong(self: _ChebConv, lap: torch.Tensor) -> torch.Tensor:
        stack = right(self, lap)
        stack[2] = stack[2] + torch.eye(17)
        return stack

    monkeypatch.setattr(_ChebConv, "polynomials", wrong)
    assert not any(c.passed for c in epsilons(EagerReleased(setting), setting, walked[0]))


class _Calls(TorchDispatchMode):
    """Counts the operators that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_eager_as_released_does_the_work_of_the_released_code(setting: Setting, walked: np.ndarray) -> None:
    """Counted in a step; the reference, which computes the same, has none of it."""
    peer, model = EagerReleased(setting), released_pair(setting)
    convolutions = 2 * LAYERS + 2
    with _Calls() as published:
        peer.walk(walked[0], TIMESTEPS[:1], np.zeros(1))
    # Two matmuls for the Laplacian and one for the recursion; the diagonal; two identities; an adjacency for each of two layers.
    wanted = {"mm": 3 * convolutions, "diag_embed": convolutions, "eye": 2 * convolutions, "repeat": 2 * LAYERS}
    wanted |= {"masked_fill": LAYERS, "cumprod": 2, "randn_like": 1}
    with _Calls() as ours, torch.no_grad():
        model.denoiser_network(torch.from_numpy(walked[0]), 12)
    assert {op: published.count[op] for op in wanted} == wanted
    assert {op: ours.count[op] for op in wanted if op != "mm"} == dict.fromkeys(set(wanted) - {"mm"}, 0)


def test_the_cuda_graph_is_refused_where_there_is_no_gpu(setting: Setting) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CudaError, match="a CUDA graph needs an NVIDIA GPU, and PyTorch"):
        load_peer("torch-cuda-graph", setting)


@pytest.mark.slow
def test_without_a_compiler_torch_compile_is_refused_and_the_others_are_measured(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    found, refused = measured([PeerCandidate(name, setting, 2) for name in ("torch-compiled", "folded-torch")], 2, warm_up=0)
    assert [one.reason for one in refused if "torch.compile needs a C++ compiler" in one.reason] != []
    assert [(one.candidate.backend, one.loaded.N, one.loaded.P) for one in found] == [("folded-torch", N, P)]
    assert found[0].stages["steps"].shape == (2, 2)


def test_a_peer_that_is_not_known_or_not_installed_is_refused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiffPoseEdgeError, match=r"expected a peer out of eager-released, torch-compiled, .* got 'tvm'"):
        load_peer("tvm", setting)
    monkeypatch.setattr("diffpose_edge.extras.is_installed", lambda module: module != "openvino")
    with pytest.raises(MissingPackage, match=r"pip install openvino .*\[peers\]"):
        load_peer("openvino", setting)


def test_a_video_encoder_is_refused(golden: Any, setting: Setting) -> None:
    with pytest.raises(CheckpointError, match="is a video encoder; expected a frame encoder"):
        released_pair(Setting(str(golden.denoiser), str(golden.mixste), setting.bundle, setting.scratch))
