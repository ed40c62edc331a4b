"""Mode ``distribution``: N true draws of H_K, conditioned on f_ST, the same on every batch size and as in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpose_edge.config import BatchShape
from diffpose_edge.errors import DiffPoseEdgeError, KeypointError
from diffpose_edge.export import export_bundle
from diffpose_edge.export.reference_run import expected_run
from diffpose_edge.heatmaps import render_heatmaps
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.mixtures import (
    Mixture,
    checked_mixture,
    mixture_from_heatmaps,
    mixture_from_keypoints,
    mixture_from_parameters,
)
from diffpose_edge.person import person_view
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.estimate import PRIOR_DRAWS
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.skeleton import J
from diffpose_edge.tolerances import FP32_STATE_REL, pose_budget_mm

N = 3


def _people(count: int, seed: int = 0) -> Keypoints:
    rng = np.random.default_rng(seed)
    uv = (0.3 * rng.standard_normal((count, J, 2)) + rng.uniform(-0.3, 0.3, (count, 1, 2))).astype(np.float32)
    return Keypoints(uv, rng.uniform(0.2, 1.0, (count, J)).astype(np.float32))


@pytest.fixture
def runtime(conditioned_bundle: Path) -> Iterator[PoseRuntime]:
    """P=2, N=3."""
    with PoseRuntime.load(conditioned_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def many(conditioned_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pair with P=1 and many samples."""
    out = tmp_path_factory.mktemp("bundles") / "many"
    export_bundle(*conditioned_pair, out, persons=1, samples=400)
    return out


@pytest.mark.parametrize("K", [(49,), (49, 39, 29, 19, 9)])
def test_it_is_what_pytorch_computes(runtime: PoseRuntime, conditioned_pair: tuple[Path, Path], K: tuple[int, ...]) -> None:
    people = _people(4)
    expected = expected_run(load_conditioned(*conditioned_pair), people, K, BatchShape(2, N, 1))
    estimates = list(runtime.estimate_clip(people, 0, timesteps=K, trace=True))
    joints = np.concatenate([e.joints for e in estimates])
    trajectory = np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
    largest = float(np.abs(expected.joints).max())
    assert 1000 * np.linalg.norm(joints - expected.joints, axis=-1).max() < pose_budget_mm(largest)
    np.testing.assert_allclose(trajectory, expected.trajectory, atol=FP32_STATE_REL * np.abs(expected.trajectory).max())


def test_a_video_bundle_is_what_pytorch_computes(conditioned_video_bundle: Path, conditioned_video_pair: tuple[Path, Path]) -> None:
    jitter = 0.01 * np.random.default_rng(1).standard_normal((5, J, 2)).astype(np.float32)
    people = Keypoints(_people(1).uv + jitter, _people(5).confidence)
    expected = expected_run(load_conditioned(*conditioned_video_pair), people, (49, 24), BatchShape(2, N, 5))
    with PoseRuntime.load(conditioned_video_bundle, threads=1) as runtime:
        (estimate,) = runtime.estimate_clip(people, 0, timesteps=(49, 24))
    assert 1000 * np.linalg.norm(estimate.joints - expected.joints, axis=-1).max() < pose_budget_mm(float(np.abs(expected.joints).max()))


def test_the_same_seed_gives_the_same_poses_in_any_batch(runtime: PoseRuntime, conditioned_pair: tuple[Path, Path], tmp_path: Path) -> None:
    people = _people(3)
    mixture = mixture_from_parameters(
        np.full((3, J, 2), 0.5), np.stack([people.uv, people.uv + 0.2], axis=2), np.full((3, J, 2, 2), 0.02), people.confidence
    )
    one = export_bundle(*conditioned_pair, tmp_path / "one", persons=1, samples=N).bundle
    with PoseRuntime.load(one, threads=1) as single:
        for options in ({}, {"mixture": mixture}):
            a = runtime.estimate(people.uv, people.confidence, 7, **options)
            b = single.estimate(people.uv, people.confidence, 7, **options)
            np.testing.assert_allclose(a.samples, b.samples, atol=1e-5)
            assert np.abs(a.samples - runtime.estimate(people.uv, people.confidence, 8, **options).samples).max() > 1e-3


def test_draws_have_the_starts_moments(many: Path, conditioned_pair: tuple[Path, Path]) -> None:
    """Every sample starts at mu + sigma e: the mean of the balanced draws is exact, their spread is the table's."""
    people = _people(1, seed=4)
    spread = load_conditioned(*conditioned_pair).spread
    with PoseRuntime.load(many, threads=1) as runtime:
        estimate = runtime.estimate(people.uv, people.confidence, 0, timesteps=(49,), trace=True)
    assert estimate.trajectory is not None
    start = estimate.trajectory[0, 0]
    np.testing.assert_allclose(start[..., :2].mean(axis=0), people.uv[0], atol=1e-5)
    np.testing.assert_allclose(start[..., 2:].mean(axis=0), estimate.context[0], atol=1e-5)
    scale = person_view(people.uv, people.confidence).scale[0]
    # Of 400 draws a standard deviation is known to 3.5 %; the largest of 85 deviates by less than 5 of these.
    for measured, expected in (
        (start[..., 0].std(axis=0, ddof=1), scale * spread.uv_at(people.confidence[0])),
        (start[..., 1].std(axis=0, ddof=1), scale * spread.uv_at(people.confidence[0])),
        (start[..., 2:].std(axis=0, ddof=1), spread.xyz_at(people.confidence[0])),
    ):
        np.testing.assert_allclose(measured, expected, rtol=5 * 0.0354)


def test_a_mixture_spreads_the_samples_over_its_components(many: Path) -> None:
    people = _people(1)
    far = np.stack([people.uv, people.uv + 0.5], axis=2)
    weight = np.broadcast_to(np.array([0.75, 0.25]), (1, J, 2))
    mixture = mixture_from_parameters(weight, far, np.full((1, J, 2, 2), 0.001), people.confidence)
    with PoseRuntime.load(many, threads=1) as runtime:
        estimate = runtime.estimate(people.uv, people.confidence, 0, mixture=mixture, timesteps=(49,), trace=True)
    assert estimate.trajectory is not None
    u = estimate.trajectory[0, 0, ..., 0] - people.uv[0, :, 0]
    np.testing.assert_allclose(u.mean(axis=0), 0.25 * 0.5, atol=0.02)


def test_heatmaps_go_all_the_way(runtime: PoseRuntime) -> None:
    """Heatmaps of a crop, each joint a blob with a fainter second one, through the mixture fit to poses and their start."""
    people, (w, h) = _people(2), (640, 480)
    pixels = (people.uv + np.array([1.0, h / w])) * w / 2
    # A crop of 64 x 48 heatmap pixels over the whole image.
    centres = np.stack([pixels, pixels + [120.0, 0.0]], axis=2) / 10.0
    heatmaps = render_heatmaps(centres, np.broadcast_to([0.8, 0.2], (2, J, 2)), 1.2, (48, 64))
    mixture = mixture_from_heatmaps(heatmaps, np.array([[10.0, 0.0, 0.0], [0.0, 10.0, 0.0]]), (w, h))
    estimate = runtime.estimate(mixture=mixture, seed=0, trace=True)
    assert np.isfinite(estimate.joints).all()
    assert estimate.trajectory is not None
    inside = ((centres > 3) & (centres < [61, 45])).all(axis=(2, 3))
    found = np.abs(mixture.mean - people.uv[:, :, None]).max(axis=-1).min(axis=-1)
    assert inside.sum() > 10
    assert found[inside].max() < 0.01


def test_a_covariance_widens_the_start(many: Path) -> None:
    people = _people(1)
    covariance = np.broadcast_to(np.array([[0.09, 0.03], [0.03, 0.04]]), (1, J, 2, 2))
    mixture = mixture_from_keypoints(people.uv, covariance, people.confidence)
    with PoseRuntime.load(many, threads=1) as runtime:
        plain = runtime.estimate(people.uv, people.confidence, 0, timesteps=(49,), trace=True)
        wide = runtime.estimate(mixture=mixture, seed=0, timesteps=(49,), trace=True)
    assert plain.trajectory is not None
    assert wide.trajectory is not None
    for joint in range(J):
        before, after = (np.cov(e.trajectory[0, 0, :, joint, :2].T) for e in (plain, wide))
        np.testing.assert_allclose(after - before, covariance[0, joint], atol=0.025)


def test_low_confidence_starts_wider_and_says_so(runtime: PoseRuntime) -> None:
    people = _people(1)
    confidence = np.ones((1, J), np.float32)
    sure = runtime.estimate(people.uv, confidence, 0)
    confidence[0, 13] = 0.05
    unsure = runtime.estimate(people.uv, confidence, 0)
    trace = [np.trace(e.covariance[0, 13]) for e in (sure, unsure)]
    assert trace[1] > 1.3 * trace[0]


def test_an_unseen_joint_is_not_looked_at(runtime: PoseRuntime) -> None:
    people = _people(1)
    people.confidence[0, [3, 13]] = 0
    first = runtime.estimate(people.uv, people.confidence, 0)
    people.uv[0, 3] = 5.0
    people.uv[0, 13] = np.nan
    np.testing.assert_array_equal(runtime.estimate(people.uv, people.confidence, 0).joints, first.joints)
    people.confidence[0, : J - LEAST_OBSERVED + 1] = 0
    assert np.isnan(runtime.estimate(people.uv, people.confidence, 0).joints).all()


def test_one_sample_has_the_measured_covariance(conditioned_pair: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = export_bundle(*conditioned_pair, tmp_path / "one", persons=1, samples=1).bundle
    people = _people(1)
    with PoseRuntime.load(bundle, threads=1) as runtime:
        covariance = runtime.estimate(people.uv, people.confidence, 0).covariance[0]
    residual = load_conditioned(*conditioned_pair).spread.residual_at(people.confidence[0])
    np.testing.assert_allclose(np.diagonal(covariance, axis1=-2, axis2=-1), residual**2, rtol=1e-5)


def test_the_covariance_joins_samples_and_measured_error(many: Path, conditioned_pair: tuple[Path, Path]) -> None:
    people, count = _people(1), 400
    with PoseRuntime.load(many, threads=1) as runtime:
        estimate = runtime.estimate(people.uv, people.confidence, 0)
    residual = load_conditioned(*conditioned_pair).spread.residual_at(people.confidence[0])
    for joint in (3, 16):
        own = np.cov(estimate.samples[0, :, joint].T) * (count - 1) / count
        expected = (PRIOR_DRAWS * np.diag(residual[joint] ** 2) + count * own) / (PRIOR_DRAWS + count)
        np.testing.assert_allclose(estimate.covariance[0, joint], expected, rtol=1e-3, atol=1e-7)


def test_a_joint_that_the_mixture_did_not_see_starts_at_its_keypoint(runtime: PoseRuntime) -> None:
    people = _people(1)
    told = people.confidence.copy()
    told[0, 13] = 0.0
    mixture = mixture_from_keypoints(people.uv, np.zeros((1, J, 2, 2)), told)
    estimate = runtime.estimate(people.uv, people.confidence, 0, mixture=mixture, trace=True)
    assert estimate.trajectory is not None
    np.testing.assert_allclose(estimate.trajectory[0, 0, :, 13, :2].mean(axis=0), people.uv[0, 13], atol=1e-5)


def test_who_else_is_in_the_call_changes_nothing(runtime: PoseRuntime) -> None:
    people = _people(4)
    far = np.stack([people.uv, people.uv + 0.3], axis=2)

    def mixture(count: int) -> Mixture:
        return mixture_from_parameters(np.full((count, J, 2), 0.5), far[:count], np.full((count, J, 2, 2), 0.02), people.confidence[:count])

    for with_mixture in (False, True):
        alone, together = (
            runtime.estimate(people.uv[:n], people.confidence[:n], 5, **({"mixture": mixture(n)} if with_mixture else {})) for n in (1, 4)
        )
        np.testing.assert_allclose(alone.samples[0], together.samples[0], atol=1e-5)


def test_modes_and_inputs_that_do_not_fit_are_refused(runtime: PoseRuntime, golden_bundle: Path) -> None:
    people = _people(2)
    with pytest.raises(DiffPoseEdgeError, match=r"trained with a start distribution: its modes are distribution, not 'released'"):
        runtime.estimate(people.uv, mode="released")
    with pytest.raises(KeypointError, match="neither"):
        runtime.estimate()
    for wrong in (5, (1, 2, 3), checked_mixture(np.ones((J, 1)), people.uv[0][:, None], np.zeros((J, 1, 2, 2)))):
        with pytest.raises(KeypointError, match=r"expected a diffpose_edge.mixtures.Mixture of people"):
            runtime.estimate(people.uv[:1], mixture=wrong)  # type: ignore[arg-type]
    with pytest.raises(KeypointError, match="Keypoints of one clip"):
        runtime.estimate_clip(people.uv)  # type: ignore[arg-type]
    mixture = mixture_from_keypoints(people.uv, np.zeros((2, J, 2, 2)))
    with pytest.raises(KeypointError, match="the mixture has its own"):
        runtime.estimate(None, people.confidence, mixture=mixture)
    with pytest.raises(KeypointError, match="each of the 1 people"):
        runtime.estimate(people.uv[:1], mixture=mixture)
    with PoseRuntime.load(golden_bundle, threads=1) as released:
        with pytest.raises(DiffPoseEdgeError, match="Leave mixture out"):
            released.estimate(people.uv, mixture=mixture)
        with pytest.raises(DiffPoseEdgeError, match="exported from released weights"):
            released.estimate(people.uv, mode="distribution")


def test_f_st_reaches_the_result(conditioned_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A denoiser whose projection of f_ST is zeroed gives other poses; one whose whole condition is zero sees nothing of it."""
    from diffpose_edge.reference.safetensors_files import load_trained, save_trained

    people = _people(2)
    results = []
    for width in (None, 16, 26):
        trained = load_trained(conditioned_pair[0])
        if width is not None:
            with torch.no_grad():
                trained.network.condition.weight[:, :width] = 0.0
        path = tmp_path / f"{width}.safetensors"
        record = {k: trained.record[k] for k in ("prediction", "alpha_bar", "start")}
        save_trained(trained.network, record, path)
        bundle = export_bundle(path, conditioned_pair[1], tmp_path / f"bundle{width}", persons=2, samples=N).bundle
        with PoseRuntime.load(bundle, threads=1) as runtime:
            results.append(runtime.estimate(people.uv, people.confidence, 0).samples)
    assert np.abs(results[0] - results[1]).max() > 1e-3
    assert np.abs(results[1] - results[2]).max() > 1e-3
