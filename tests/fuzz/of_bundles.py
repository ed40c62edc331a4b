"""What lies in or beside a bundle: its manifest, fitted schedules, timings, records of engines."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.config import BatchShape, GraphNetworkConfig
from diffpose_edge.engines import Target as EngineTarget
from diffpose_edge.engines import load_engine
from diffpose_edge.fitted import schedules_of_checkpoints
from diffpose_edge.manifest import FileEntry, Manifest, manifest_from_json
from diffpose_edge.schedule import RELEASED_TIMESTEPS, released_alpha_bar
from diffpose_edge.timings import all_timings
from tests.fuzz.mutators import as_json
from tests.fuzz.target import Target, file_of, folder_of

CHECKPOINTS = {"denoiser": "a" * 64, "context": "b" * 64}
# SHA-256 of the one byte that each graph of these bundles is.
X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def small_manifest() -> Manifest:
    """A manifest whose files are a byte each."""
    files = {"context.fp32.onnx": FileEntry("context", "fp32", X, 1), "step.fp32.onnx": FileEntry("step", "fp32", X, 1)}
    return Manifest(
        denoiser=GraphNetworkConfig(32, 2, 4),
        context=GraphNetworkConfig(32, 2, 4),
        shape=BatchShape(P=2, N=3),
        alpha_bar=tuple(float(a) for a in released_alpha_bar()),
        timesteps=RELEASED_TIMESTEPS,
        files=files,
    )


@cache
def _bundle() -> Bundle:
    folder = folder_of("bundle")
    for name in ("context.fp32.onnx", "step.fp32.onnx"):
        (folder / name).write_bytes(b"x")
    return Bundle(folder, small_manifest())


def read_manifest(data: bytes) -> None:
    """Load a bundle with this manifest; one that is accepted says the same after a round trip, and answers what a runtime asks."""
    bundle = load_bundle(_with_manifest(data))
    manifest = bundle.manifest
    assert manifest_from_json(manifest.to_json()) == manifest
    assert manifest.alpha_bar_table.shape == (manifest.T,)
    assert manifest.context_io
    assert manifest.step_io
    for each in manifest.fitted:
        assert each.coefficients.shape == (len(each.timesteps), 3)


def _with_manifest(data: bytes) -> Path:
    _bundle()
    return file_of("bundle/manifest.json", data).parent


def read_schedules(data: bytes) -> None:
    """Read schedules that were fitted to a pair of checkpoints."""
    schedules_of_checkpoints(file_of("schedules.json", data), CHECKPOINTS, 51)


def read_timings(data: bytes) -> None:
    """Read the timings of a machine, and ask what they are for."""
    bundle = _bundle()
    file_of("bundle/timings/machine.json", data)
    for timings in all_timings(bundle):
        timings.p99_ms(2)
        json.dumps(timings.as_record(), allow_nan=False)


def read_engine(data: bytes) -> None:
    """Find an engine by its record, and check that it is whole."""
    bundle = _bundle()
    file_of("bundle/engines/tensorrt-10.3.0-sm87/step.fp16.engine", b"x")
    file_of("bundle/engines/tensorrt-10.3.0-sm87/step.fp16.json", data)
    load_engine(bundle, "step", "fp16", EngineTarget("tensorrt", "10.3.0", 87))


TARGETS = (
    Target("manifest", read_manifest, as_json),
    Target("schedules", read_schedules, as_json),
    Target("timings", read_timings, as_json),
    Target("engine_record", read_engine, as_json),
)
