"""Which backend runs a bundle here: the one that was asked for, or the CPU where "auto" finds no engine that fits."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from diffpose_edge.bundle import Bundle
from diffpose_edge.causal_io import refuse_on_gpu
from diffpose_edge.errors import CudaError, DiffPoseEdgeError, EngineError, EngineMismatch, MissingPackage
from diffpose_edge.extras import require
from diffpose_edge.runtime.backend import Backend

BACKENDS = ("onnxruntime", "tensorrt", "onnxruntime-cuda", "auto")
# ONNX Runtime starts as many threads as it is told, and a hundred thousand take the machine down with them.
MOST_THREADS = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """A loaded backend; ``for_cpu``: it runs the graphs made for the CPU; ``fell_back``: it is the CPU because nothing else fits."""

    backend: Backend
    for_cpu: bool = False
    fell_back: bool = False


def check_backend(backend: str, threads: int | None) -> None:
    """Raise DiffPoseEdgeError for an unknown backend, or for threads that are no number within 1..MOST_THREADS."""
    if backend not in BACKENDS:
        raise DiffPoseEdgeError(f"expected a backend out of {', '.join(BACKENDS)}, got {backend!r}")
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise DiffPoseEdgeError(f"expected threads as a whole number within 1..{MOST_THREADS}, got {threads!r}")


def load_backend(
    bundle: Bundle,
    backend: str,
    precision: str,
    *,
    threads: int | None,
    flavour: str | None,
    provider: str | None,
    device: int,
    timed: bool,
    portable: bool,
) -> Chosen:
    """Load a checked bundle's graphs or engines into a backend out of BACKENDS; the arguments are those of ``PoseRuntime.load``.

    Raises BundleError, MissingPackage, EngineMismatch, EngineError, CudaError.
    """
    auto = backend == "auto"
    if auto and bundle.manifest.causal is not None:
        log.info("running on the CPU: a causal encoder runs nowhere else yet", extra={"event": "fallback", "kind": "cpu"})
        backend = "onnxruntime"
    if backend != "onnxruntime":
        refuse_on_gpu(bundle.manifest.causal)
    if backend in ("tensorrt", "auto"):
        from diffpose_edge.runtime.tensorrt_backend import tensorrt_backend

        try:
            return Chosen(tensorrt_backend(bundle, precision, flavour=flavour, provider=provider, device=device, timed=timed))
        except (EngineError, CudaError, MissingPackage) as err:
            if not auto:
                raise
            # Nothing that fits is what a machine without a GPU has; an engine that fits and is refused is news.
            expected = not isinstance(err, EngineError) or isinstance(err, EngineMismatch)
            level = logging.INFO if expected else logging.WARNING
            log.log(level, "running on the CPU: %s", err, extra={"event": "fallback", "kind": "cpu"})
    require("onnxruntime")
    if backend == "onnxruntime-cuda":
        from diffpose_edge.runtime.onnxruntime_cuda_backend import OnnxRuntimeCudaBackend

        return Chosen(OnnxRuntimeCudaBackend(bundle.manifest, bundle.graphs(precision), device))
    from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

    graphs = bundle.graphs(precision, for_cpu=not portable)
    return Chosen(OnnxRuntimeBackend(bundle.manifest, graphs, threads), for_cpu=not portable, fell_back=auto)
