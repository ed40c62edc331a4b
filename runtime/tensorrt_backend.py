"""The TensorRT backend: the engines of a bundle that fit this machine, over fixed buffers on its GPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffpose_edge.bundle import Bundle
from diffpose_edge.engines import ENGINE_ROLES, FLAVOURS, Target, checked_flavour, checked_precision, load_engine
from diffpose_edge.errors import EngineMismatch
from diffpose_edge.extras import install_command, is_installed
from diffpose_edge.manifest import Manifest, Shapes
from diffpose_edge.runtime.cuda import Cuda, open_cuda
from diffpose_edge.runtime.device_backend import DeviceBackend
from diffpose_edge.runtime.plan import step_plan
from diffpose_edge.runtime.start_graph import start_io
from diffpose_edge.runtime.tensorrt_engine import TensorRTEngine, tensorrt_module


def engine_io(manifest: Manifest) -> dict[str, tuple[Shapes, Shapes]]:
    """Return names and shapes of the inputs and outputs of every engine, by role."""
    return {"context": manifest.context_io, "step": manifest.step_io, "start": start_io(manifest)}


def tensorrt_backend(
    bundle: Bundle,
    precision: str,
    *,
    flavour: str | None = None,
    provider: str | None = None,
    device: int = 0,
    timed: bool = False,
    capture: bool = True,
) -> DeviceBackend:
    """Load the engines of a bundle that fit GPU number ``device``, and run a frame of nobody, so that the first one is as
    quick as the others; see :class:`DeviceBackend` for ``timed`` and ``capture``.

    ``flavour``: "tensorrt" or "rtx" (default: the first that is installed and has engines that fit). ``provider`` of CUDA:
    "cuda-bindings" or "pycuda". Raises EngineMismatch with the command that builds what is missing, CudaError, EngineError,
    MissingPackage.
    """
    checked_precision(precision)
    chosen = [checked_flavour(flavour)] if flavour is not None else [name for name, (module, _) in FLAVOURS.items() if is_installed(module)]
    if not chosen:
        raise EngineMismatch(f"neither TensorRT nor TensorRT-RTX is installed. {install_command('tensorrt')}; on a Jetson it is JetPack's")
    cuda = open_cuda(provider, device)
    with ExitStack() as stack:
        stack.callback(cuda.close)
        modules = {name: tensorrt_module(name) for name in chosen}
        targets = {name: Target(name, trt.__version__, cuda.device.sm) for name, trt in modules.items()}
        # Where none has engines that fit, the first says what is missing.
        found = next((name for name in chosen if _has_engines(bundle, precision, targets[name])), chosen[0])
        loaded = {role: load_engine(bundle, role, precision, targets[found]) for role in ENGINE_ROLES}
        # TensorRT-RTX compiles kernels where they run, which takes seconds: what it made stays beside the engine.
        kernels = {role: (bundle.path / record.name).with_suffix(f".sm{cuda.device.sm}.kernels") for role, (record, _) in loaded.items()}
        engines = _engines(modules[found], {role: plan for role, (_, plan) in loaded.items()}, kernels, bundle.manifest, cuda)
        stack.pop_all()  # from here on they are the backend's
        backend = DeviceBackend(bundle.manifest, cuda, engines, timed=timed, capture=capture)
    with ExitStack() as stack:
        stack.callback(backend.close)
        plan = step_plan(bundle.manifest)
        backend.warm_up(plan.timesteps, plan.coefficients)
        with cuda.current():
            for engine in engines.values():
                engine.keep_kernels()
        stack.pop_all()
    return backend


def _has_engines(bundle: Bundle, precision: str, target: Target) -> bool:
    try:
        return all(load_engine(bundle, role, precision, target) for role in ENGINE_ROLES)
    except EngineMismatch:
        return False


def _engines(
    trt: Any, plans: Mapping[str, bytes], kernels: Mapping[str, Path], manifest: Manifest, cuda: Cuda
) -> dict[str, TensorRTEngine]:
    io = engine_io(manifest)
    with cuda.current(), ExitStack() as stack:
        engines = {}
        for role, plan in plans.items():
            engines[role] = TensorRTEngine(trt, plan, role, io[role], kernels[role])
            stack.callback(engines[role].close)
        stack.pop_all()
    return engines
