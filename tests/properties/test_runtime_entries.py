"""The runtime and its streams, called with what nobody means: a pose, or an error that says what was expected; and they go on working."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import checked_keypoints
from diffpose_edge.runtime import PoseRuntime, PoseStream
from diffpose_edge.skeleton import J
from tests.fuzz.rule import unclear

from .junk import TEXTS, instead_of

UV = np.random.default_rng(0).uniform(-0.5, 0.5, (2, J, 2)).astype(np.float32)
# One bundle is loaded once; what a call did must not show in the next.
FEW = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
WALK = {"timesteps": (12, 0), "seed": 1, "mode": "released"}


@pytest.fixture(scope="module")
def runtime(golden_bundle: Path) -> Iterator[PoseRuntime]:
    with PoseRuntime.load(golden_bundle, threads=1) as opened:
        yield opened


def _said(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or None for an error whose text helps."""
    why = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except DiffPoseEdgeError as err:
        why = unclear(str(err)), str(err)
    assert why[0] is None, why
    return None


def _exchanged(data: st.DataObject, right: dict[str, Any]) -> dict[str, Any]:
    names = data.draw(st.lists(st.sampled_from(list(right)), min_size=1, max_size=2, unique=True))
    return {**right, **{name: data.draw(instead_of(right[name])) for name in names}}


@FEW
@given(data=st.data())
def test_estimate(runtime: PoseRuntime, data: st.DataObject) -> None:
    right = {"keypoints": UV, "confidence": np.ones((2, J)), "budget_ms": 1e6, **WALK}
    asked = _exchanged(data, right)
    asked.pop("budget_ms" if data.draw(st.booleans()) or "timesteps" in asked else "timesteps")
    call = runtime.estimate if data.draw(st.booleans()) else lambda **more: runtime.estimate_async(**more).result()
    estimate = _said(lambda: call(**asked))
    assert estimate is None or estimate.joints.shape[1:] == (J, 3)
    assert np.isfinite(runtime.estimate(UV, timesteps=(0,)).joints).all()


@FEW
@given(data=st.data())
def test_estimate_clip_and_stream(runtime: PoseRuntime, data: st.DataObject) -> None:
    asked = _exchanged(data, dict(WALK))
    if data.draw(st.booleans()):
        poses = _said(lambda: list(runtime.estimate_clip(checked_keypoints(UV), **asked)))
        assert poses is None or sum(len(each.joints) for each in poses) == len(UV)
    else:
        # A frame encoder has no stream: whatever is asked for, it is refused.
        assert _said(lambda: runtime.stream(**_exchanged(data, {"people": 1, "hop": 1, "output": "last", **WALK}))) is None


@FEW
@given(data=st.data())
def test_pose_stream(runtime: PoseRuntime, data: st.DataObject) -> None:
    right = {"max_missed": 3, "crowd": "batches", "max_gap_ns": 10**9, "back_pressure": "latest", "frame_id": "camera", "seed": 1, "hop": 1}
    stream = _said(lambda: PoseStream(runtime, **_exchanged(data, right)))
    if stream is None:
        stream = PoseStream(runtime, seed=1)
    with stream:
        frame = _exchanged(data, {"keypoints": UV, "stamp_ns": 5})
        bodies = _said(lambda: stream.process(frame["keypoints"], frame["stamp_ns"]))
        assert bodies is None or all(body.joints.shape == (J, 3) for body in bodies)
        assert isinstance(stream.process(UV, 2**62), list)


@FEW
@given(data=st.data())
def test_load(golden_bundle: Path, data: st.DataObject) -> None:
    right = {"bundle": "no-such-bundle", "backend": "onnxruntime", "precision": "fp32", "threads": 1, "provider": "cuda-bindings"}
    asked = _exchanged(data, right)
    if data.draw(st.booleans()):
        asked["bundle"] = golden_bundle
    loaded = _said(lambda: PoseRuntime.load(**asked))
    if loaded is not None:
        loaded.close()


COMMANDS = (
    ("inspect", "{}"),
    ("run", "{}", "--keypoints", "{}", "--out", "{}"),
    ("run", "{}", "--timesteps", "{}"),
    ("lint", "{}", "--target", "{}"),
    ("view", "{}", "--out", "{}"),
    ("export", "--denoiser", "{}", "--context", "{}", "--out", "{}"),
    ("bench", "{}"),
    ("{}",),
)


@settings(FEW, max_examples=15)
@given(
    words=st.sampled_from(COMMANDS), texts=st.lists(st.sampled_from((*TEXTS, "no-such-file", "-1", "--", "[bold]")), min_size=3, max_size=3)
)
def test_command_line(words: tuple[str, ...], texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffpose_edge.cli.app import app

    monkeypatch.chdir(tmp_path)
    given_texts = iter(texts)
    # A null character and a lone surrogate cannot reach a program's arguments.
    line = [next(given_texts).replace("\x00", "").replace("\ud800", "") if word == "{}" else word for word in words]
    ended = CliRunner().invoke(app, line)
    if isinstance(ended.exception, DiffPoseEdgeError):
        assert unclear(str(ended.exception)) is None, str(ended.exception)
    else:
        assert ended.exception is None or isinstance(ended.exception, SystemExit), repr(ended.exception)
