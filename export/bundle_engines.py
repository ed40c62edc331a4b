"""The engines of a bundle: context, step and start, built for this machine and proved on it where it has a GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

import diffpose_edge
from diffpose_edge.bundle import Bundle, sha256_of
from diffpose_edge.causal_io import refuse_on_gpu
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.comparison import added_error
from diffpose_edge.engines import (
    ENGINE_ROLES,
    FLAVOURS,
    FOLDER,
    EngineRecord,
    Target,
    checked_flavour,
    checked_precision,
    engine_folder,
    engine_records,
    graph_precision,
    load_engine,
    save_engine,
)
from diffpose_edge.errors import CudaError, DiffPoseEdgeError, EngineError, EngineMismatch, MissingPackage
from diffpose_edge.export.engine_build import DEFAULT, BuildOptions, BuiltPlan, Progress, built_plan
from diffpose_edge.export.start_graph import start_graph
from diffpose_edge.extras import is_installed
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime.cuda import Device, open_cuda
from diffpose_edge.runtime.last_finite import AS_IT_IS
from diffpose_edge.runtime.pose_runtime import PoseRuntime
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.runtime.tensorrt_backend import tensorrt_backend
from diffpose_edge.runtime.tensorrt_engine import tensorrt_module
from diffpose_edge.temporaries import remove_ownerless

# Frames of which poses are compared at the end of a build.
PROOF_FRAMES = 4


def default_flavour() -> str:
    """Return the flavour that is installed, TensorRT before TensorRT-RTX. Raises MissingPackage when neither is."""
    for flavour, (module, _) in FLAVOURS.items():
        if is_installed(module):
            return flavour
    raise MissingPackage(
        "building engines needs TensorRT: on a Jetson JetPack's, elsewhere run: pip install tensorrt   (or '.[rtx]' in a checkout)"
    )


def device_here(index: int = 0) -> Device | None:
    """Return GPU number ``index``, or None where there is no GPU, no driver or no provider of CUDA."""
    try:
        with closing(open_cuda(device=index)) as cuda:
            return cuda.device
    except (CudaError, MissingPackage):
        return None


def build_engines(
    bundle: Bundle,
    precision: str,
    flavour: str,
    options: BuildOptions = DEFAULT,
    *,
    device: int = 0,
    keep_timing_cache: bool = True,
    rebuild: bool = False,
    heard: Callable[[str, bool], None] = lambda role, building: None,
    progress: Progress | None = None,
) -> tuple[EngineRecord, ...]:
    """Build what does not fit this machine yet, or, with ``rebuild``, everything; return the records of all three engines.

    TensorRT needs the GPU that it builds for. TensorRT-RTX does not: its engines are for every GPU that it supports.
    ``keep_timing_cache``: measured tactics are kept beside the engines, for the same flavour, version and GPU.
    ``heard`` is told of each role whether it is built or there already, ``progress`` of the phases of a build. Each engine is
    written whole or not at all. Raises as :func:`diffpose_edge.export.engine_build.built_plan` does, BundleError when the
    bundle lacks the precision, OutputError, CudaError for a flavour that needs a GPU where there is none.
    """
    checked_precision(precision)
    if checked_flavour(flavour) == "rtx" and (options.version_compatible or options.hardware_compatible):
        raise DiffPoseEdgeError(
            "expected no wish for compatibility with TensorRT-RTX: its engines run on every GPU that it supports, and on no other version"
        )
    refuse_on_gpu(bundle.manifest.causal)
    trt = tensorrt_module(flavour)
    with _gpu_of(flavour, device) as found:
        target = Target(flavour, trt.__version__, 0 if found is None else found.sm)
        graph = graph_precision(precision, flavour, trt.__version__)
        contents = {role: bundle.read(role, graph) for role in ("context", "step")}
        contents["start"] = start_graph(bundle.manifest).SerializeToString(deterministic=True)
        # Where none can be made, it is better known before the build. Nothing may be left to build, and what a killed build has left goes.
        remove_ownerless(engine_folder(bundle, bundle.path / FOLDER))
        # TensorRT-RTX measures on the machine where an engine runs: at the build there is nothing to keep.
        if keep_timing_cache and flavour != "rtx":
            cache = bundle.path / FOLDER / f"{flavour}-{target.version}-sm{target.sm}" / "timing.cache"
            engine_folder(bundle, cache.parent)
            options = replace(options, timing_cache=cache)
        records = []
        for role in ENGINE_ROLES:
            there = None if rebuild else _fitting(bundle, role, precision, target, sha256_of(contents[role]), options)
            heard(role, there is None)
            if there is None:
                own, graph_of_role = (precision, graph) if role != "start" else ("fp32", "fp32")
                made = built_plan(contents[role], f"the {role} graph in {own}", flavour, graph_of_role, options, progress)
                there = EngineRecord(
                    role=role,
                    precision=own,
                    graph=graph_of_role,
                    flavour=flavour,
                    version=trt.__version__,
                    sm=None if flavour == "rtx" else target.sm,
                    onnx_sha256=sha256_of(contents[role]),
                    sha256=sha256_of(made.plan),
                    bytes=len(made.plan),
                    version_compatible=options.version_compatible,
                    hardware_compatible=options.hardware_compatible,
                    made=_made(made, options, found),
                )
                save_engine(bundle, there, made.plan, made.listing)
            records.append(there)
        return tuple(records)


@contextmanager
def _gpu_of(flavour: str, device: int) -> Iterator[Device | None]:
    """Yield the GPU that is built for, if there is one. TensorRT builds for the one whose context is current, else for the first."""
    if flavour == "rtx":
        yield device_here(device)
        return
    with closing(open_cuda(device=device)) as cuda, cuda.current():
        yield cuda.device


def _fitting(bundle: Bundle, role: str, precision: str, target: Target, onnx_sha256: str, options: BuildOptions) -> EngineRecord | None:
    """Return the engine that is there, of this very graph and at least as compatible as is asked for."""
    try:
        found = load_engine(bundle, role, precision, target)[0]
    except EngineMismatch:
        return None
    lacking = (options.version_compatible and not found.version_compatible) or (
        options.hardware_compatible and not found.hardware_compatible
    )
    return None if lacking or found.onnx_sha256 != onnx_sha256 else found


def _made(made: BuiltPlan, options: BuildOptions, device: Device | None) -> dict[str, Any]:
    return {
        "seconds": round(made.seconds, 3),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "diffpose-edge": diffpose_edge.__version__,
        "machine": platform.machine(),
        "gpu": None if device is None else device.name,
        "cuda_driver": None if device is None else device.driver,
        "options": options.as_json(),
        "warnings": list(made.messages)[:20],
    }


def proof_frames(bundle: Bundle) -> Keypoints:
    """Return the shipped poses that engines are tried on: one window, or a few frames."""
    clip, F = calibration_keypoints(), bundle.manifest.shape.F
    if F > 1:
        return Keypoints(clip.uv[:F], clip.confidence[:F])
    usable = np.flatnonzero((clip.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED)
    chosen = usable[np.linspace(0, len(usable) - 1, PROOF_FRAMES).astype(int)]
    return Keypoints(clip.uv[chosen], clip.confidence[chosen])


def prove_engines(bundle: Bundle, precision: str, flavour: str, *, device: int = 0) -> dict[str, Any]:
    """Run real poses through the engines and through ONNX Runtime, write what they differ by into the engines' records, return it.

    Every state is compared, and the replayed graph with the same work enqueued piece by piece. Raises CudaError and
    EngineError when the engines do not run here, or give anything that is not finite.
    """
    clip, graph = proof_frames(bundle), graph_precision(precision, flavour, tensorrt_module(flavour).__version__)
    with PoseRuntime.load(bundle, precision=graph, portable=True) as runtime:
        expected = _joined(runtime, clip)
    engines = tensorrt_backend(bundle, precision, flavour=flavour, device=device)
    with PoseRuntime(bundle, engines, non_finite=AS_IT_IS) as runtime:
        found = _joined(runtime, clip)
        # The first of these is enqueued piece by piece, the second is a replay.
        joints = [np.concatenate([e.joints for e in runtime.estimate_clip(clip, 0)]) for _ in range(2)]
        described = runtime.describe()
    if not all(np.isfinite(each).all() for each in (*found, *joints)):
        raise EngineError(f"the engines in {precision} give poses that are not finite: do not use them, and report this bundle and GPU")
    added = added_error(found[0], expected[0], found[1], expected[1])
    record: dict[str, Any] = {"beside": f"ONNX Runtime on the CPU, graphs in {graph}", "frames": len(clip), **added.as_json()}
    record |= {"replay_equals_eager": bool(np.array_equal(joints[0], joints[1])), "runtime": described}
    here = Target(flavour, described["version"], described["sm"])
    for path, engine in engine_records(bundle):
        if (engine.role == "start" or engine.precision == precision) and engine.misfit(bundle, here) is None:
            save_engine(bundle, replace(engine, made={**engine.made, "verification": record}), path.read_bytes())
    return record


def _joined(runtime: PoseRuntime, clip: Keypoints) -> tuple[Any, Any]:
    """Return joints (frames, 17, 3) and every state (K + 1, frames, N, 17, 5) of a clip."""
    estimates = list(runtime.estimate_clip(clip, 0, trace=True))
    states = [e.trajectory for e in estimates if e.trajectory is not None]
    return np.concatenate([e.joints for e in estimates]), np.concatenate(states, axis=1)
