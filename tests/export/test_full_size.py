"""Networks of the released size, from checkpoint to runtime: the frame pair, and MixSTE with 243 frames."""

import numpy as np
import pytest

from diffpose_edge.clips import street_walk
from diffpose_edge.export import export_bundle
from diffpose_edge.export.verification import verify_bundle
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.reference.checkpoints import save_released
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.random_weights import randomise
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.tolerances import FP32_STATE_REL


def test_frame_pair_end_to_end_on_the_real_clip(random_pair, tmp_path):
    report = export_bundle(*random_pair, tmp_path / "bundle", persons=4)
    assert report.warnings == ()
    clip = street_walk().keypoints
    found = clip.confidence.max(axis=1) > 0
    few = Keypoints(clip.uv[found][:16], clip.confidence[found][:16])
    for keypoints, timesteps, frames in ((clip, None, 64), (few, tuple(range(49, -1, -1)), 16)):
        verified = verify_bundle(report.bundle, *random_pair, keypoints, timesteps=timesteps)
        assert verified.passed, [str(c) for s in verified.sections.values() for c in s if not c.passed]
        assert verified.frames == frames
        assert verified.same_checkpoints


@pytest.mark.slow
def test_mixste_with_243_frames_loads_exports_and_runs(random_pair, tmp_path):
    network = MixSTE()
    randomise(network, seed=1)
    save_released(network, tmp_path / "mixste.bin")
    denoiser = random_pair[0]
    report = export_bundle(denoiser, tmp_path / "mixste.bin", tmp_path / "bundle", samples=2, mirror_average=False)
    assert report.warnings == ()
    worst = max((c for c in report.comparisons if c.name.startswith("context")), key=lambda c: c.relative)
    assert worst.passed, str(worst)
    clip = street_walk().keypoints
    with PoseRuntime.load(report.bundle) as runtime:
        estimates = list(runtime.estimate_clip(clip, timesteps=(0,)))
        joints = np.concatenate([e.joints for e in estimates])
        assert joints.shape == (230, 17, 3)
        found = clip.confidence.max(axis=1) > 0
        assert np.isfinite(joints[found]).all()
        assert np.isnan(joints[~found]).all()
        window = np.arange(243).clip(max=229)
        seen = Keypoints(clip.uv[window], clip.confidence[window])
        newest = runtime.estimate(seen.uv[None, ::-1], seen.confidence[None, ::-1], timesteps=(0,))
    # The same window backwards is another input: the encoder does look at time.
    assert np.abs(newest.joints[0] - joints[0]).max() > FP32_STATE_REL or np.isnan(newest.joints).all()
