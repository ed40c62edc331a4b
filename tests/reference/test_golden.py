"""The PyTorch reference against tensors that the authors' own implementation computed."""

import numpy as np
import pytest
import torch

from diffpose_edge.reference import load_mixste, load_released, pose_of
from diffpose_edge.skeleton import MIRROR
from diffpose_edge.tolerances import REFERENCE_ABS


@pytest.fixture(scope="module")
def model(golden):
    return load_released(denoiser=golden.denoiser, context=golden.context, heads=4)


def largest_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    assert tuple(actual.shape) == expected.shape
    return float(np.abs(actual.numpy() - expected).max())


def test_frame_encoder_gives_the_authors_poses(model, golden):
    xyz = model.context(torch.from_numpy(golden.expected["input_2d"]))
    assert largest_error(xyz, golden.expected["context_xyz"]) <= REFERENCE_ABS


def test_start_is_input_and_root_relative_context(model, golden):
    start = model.start(torch.from_numpy(golden.expected["input_2d"]))
    assert largest_error(start, golden.expected["uvxyz"]) <= REFERENCE_ABS


@pytest.mark.parametrize("t", [0, 1, 12, 50])
def test_denoiser_gives_the_authors_epsilon(model, golden, t):
    x = torch.from_numpy(golden.expected["uvxyz"])
    assert largest_error(model.denoiser(x, t), golden.expected[f"eps_t{t}"]) <= REFERENCE_ABS


def test_denoiser_takes_a_timestep_for_each_pose(model, golden):
    x = torch.from_numpy(golden.expected["uvxyz"])
    mixed = model.denoiser(x, torch.tensor([0, 12, 50]))
    expected = np.stack([golden.expected[f"eps_t{t}"][i] for i, t in enumerate((0, 12, 50))])
    assert largest_error(mixed, expected) <= REFERENCE_ABS


@pytest.mark.parametrize("schedule", ["ddim_T24_K2", "ddim_T50_K5", "ddim_T50_K50", "ddim_T6_K1"])
def test_every_state_of_the_trajectory_is_the_authors(model, golden, schedule):
    timesteps = golden.expected[f"{schedule}_timesteps"].tolist()
    trajectory = model.sample(torch.from_numpy(golden.expected["input_2d"]), timesteps)
    assert largest_error(trajectory, golden.expected[f"{schedule}_x"]) <= REFERENCE_ABS
    assert largest_error(pose_of(trajectory[-1]), golden.expected[f"{schedule}_pose"]) <= REFERENCE_ABS


def test_mixste_gives_the_authors_poses(golden):
    network = load_mixste(golden.mixste, heads=4)
    with torch.no_grad():
        xyz = network(torch.from_numpy(golden.mixste_expected["input_2d"]))
    assert largest_error(xyz, golden.mixste_expected["context_xyz"]) <= REFERENCE_ABS


def test_another_head_count_gives_another_answer(golden):
    network = load_mixste(golden.mixste, heads=8)
    with torch.no_grad():
        xyz = network(torch.from_numpy(golden.mixste_expected["input_2d"]))
    assert largest_error(xyz, golden.mixste_expected["context_xyz"]) > 100 * REFERENCE_ABS


def test_mirror_average_is_the_mean_of_two_separate_passes(golden):
    uv = torch.from_numpy(golden.mixste_expected["input_2d"])
    straight, averaged = load_mixste(golden.mixste, heads=4), load_mixste(golden.mixste, heads=4, mirror_average=True)
    swap = list(MIRROR)
    with torch.no_grad():
        mirrored_uv = uv[:, :, swap] * torch.tensor([-1.0, 1.0])
        turned_back = straight(mirrored_uv)[:, :, swap] * torch.tensor([-1.0, 1.0, 1.0])
        expected = (straight(uv) + turned_back) / 2
        assert largest_error(averaged(uv), expected.numpy()) <= REFERENCE_ABS
        # Its answer to a mirrored input is the mirror image of its answer: what the averaging is for.
        mirrored_answer = averaged(mirrored_uv)[:, :, swap] * torch.tensor([-1.0, 1.0, 1.0])
        assert largest_error(mirrored_answer, averaged(uv).numpy()) <= REFERENCE_ABS


def test_video_pair_loads_through_load_released(golden):
    pair = load_released(golden.denoiser, golden.mixste, heads=4, video_heads=4, mirror_average=False)
    xyz = pair.context(torch.from_numpy(golden.mixste_expected["input_2d"]))
    assert largest_error(xyz, golden.mixste_expected["context_xyz"]) <= REFERENCE_ABS
