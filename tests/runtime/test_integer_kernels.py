"""Integer sums are exact on every processor: which kernels are asked for, and that the precise ones and VNNI's agree to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.runtime import integer_kernels
from diffpose_edge.runtime.integer_kernels import exact_integers, has_vnni


@pytest.fixture(autouse=True)
def _asked_anew() -> Any:
    has_vnni.cache_clear()
    yield
    has_vnni.cache_clear()


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor: 1\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags : fpu avx_vnni\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        # A machine with two kinds of cores: threads may run on either.
        ("flags : fpu avx_vnni\nflags : fpu avx2\n", False),
        ("Features : fp asimd asimddp\n", False),
        ("", False),
    ],
)
def test_what_a_processor_says(text: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(integer_kernels, "CPUINFO", tmp_path / "cpuinfo")
    assert has_vnni() is known


def test_where_nothing_is_said_it_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_kernels, "CPUINFO", tmp_path / "none")
    assert not has_vnni()


def answers(path: Path, precise: bool | None) -> list[Any]:
    """Run a step in INT8, with numbers as large as they can get; None: as the runtime does here."""
    bundle, options = load_bundle(path), ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if precise is None:
        exact_integers(options)
    else:
        options.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    session = ort.InferenceSession(bundle.read("step", "int8-cpu"), options, providers=["CPUExecutionProvider"])
    rng, feed = np.random.default_rng(3), {}
    for name, shape in bundle.manifest.step_io[0].items():
        feed[name] = 40 * rng.normal(0.0, 1.0, shape).astype(np.float32)
    return list(session.run(None, feed | {"timestep": np.array([12.0], np.float32), "coefficients": np.array([0.3, 0.5, 0.1], np.float32)}))


@pytest.mark.parametrize("kind", ["golden", "conditioned"])
def test_the_runtime_s_kernels_and_the_precise_ones_agree_to_the_bit(calibrated_bundles: dict[str, Path], kind: str) -> None:
    path = calibrated_bundles[kind]
    for ours, precise in zip(answers(path, None), answers(path, precise=True), strict=True):
        np.testing.assert_array_equal(ours, precise)
    if has_vnni():
        for fast, precise in zip(answers(path, precise=False), answers(path, precise=True), strict=True):
            np.testing.assert_array_equal(fast, precise)
