"""An engine of TensorRT or TensorRT-RTX, deserialised and ready to be enqueued."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_file
from diffpose_edge.engines import FLAVOURS, MOST_ENGINE_BYTES
from diffpose_edge.errors import EngineError, OutputError
from diffpose_edge.extras import require
from diffpose_edge.manifest import Shapes
from diffpose_edge.reading import read_file
from diffpose_edge.runtime.tensorrt_messages import heard_by, logger_of

log = logging.getLogger(__name__)
# An error quotes the last few messages: a long build or a broken driver can say thousands.
QUOTED = 5


def tensorrt_module(flavour: str) -> Any:
    """Return the Python module of a flavour out of FLAVOURS. Raises MissingPackage; EngineError when it cannot be loaded."""
    module = FLAVOURS[flavour][0]
    require(module)
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as err:  # the libraries behind it are missing or of another CUDA
        raise EngineError(f"{FLAVOURS[flavour][1]} is installed but cannot be loaded: {err}") from err


class TensorRTEngine:
    """See :class:`diffpose_edge.runtime.device_backend.Engine`. The device's context must be current where it is made and used.

    ``io``: names and shapes of inputs and outputs that the engine must have, all in float32. ``kernels``: where TensorRT-RTX
    finds what it compiled for this GPU at an earlier load, if it did. Raises EngineError when the plan is none, is refused,
    or takes anything else.
    """

    def __init__(self, trt: Any, plan: bytes, name: str, io: tuple[Shapes, Shapes], kernels: Path | None = None):
        self._trt, self._name, self._kernels = trt, name, kernels
        self._config: Any = None
        self._cache: Any = None
        with self._explaining() as errors:
            try:
                runtime = trt.Runtime(logger_of(trt))
            except (RuntimeError, TypeError) as err:  # what the bindings raise when the library gives none
                raise self._refusal(f"has nothing to run on ({err})", errors) from None
            if hasattr(runtime, "engine_host_code_allowed"):
                runtime.engine_host_code_allowed = True  # version-compatible plans carry a small runtime of their own
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise self._refusal("is not an engine that this TensorRT takes", errors + self._diagnosed(runtime, plan))
            self._check(engine, io)
            context = self._context_of(engine)
            if context is None:
                raise self._refusal("got no execution context", errors)
        self._runtime, self._engine, self._context = runtime, engine, context

    def bind(self, addresses: Mapping[str, int]) -> None:
        with self._explaining() as errors:
            for name, address in addresses.items():
                if not self._context.set_tensor_address(name, address):
                    raise self._refusal(f"did not take the address {address:#x} for {name}", errors)

    def enqueue(self, stream: int) -> None:
        with self._explaining() as errors:
            if not self._context.execute_async_v3(stream):
                raise self._refusal("did not run", errors)

    def keep_kernels(self) -> None:
        """Write what was compiled so far to ``kernels``, for the next load; where that cannot be written, say so and go on."""
        if self._cache is None or self._kernels is None:
            return
        compiled = bytes(memoryview(self._cache.serialize()))
        if self._kept_kernels() == compiled:
            return
        try:
            with atomic_file(self._kernels) as temporary:
                temporary.write_bytes(compiled)
        except OutputError as err:  # a robot's bundle may be read-only, and runs all the same
            log.info("kernels are compiled again at the next load: %s", err)

    def describe(self) -> dict[str, Any]:
        return {"backend": self._trt.__name__, "version": self._trt.__version__}

    def close(self) -> None:
        # In this order: a context holds its kernels and its engine, an engine its runtime.
        self._context = self._cache = self._config = self._engine = self._runtime = None

    def _check(self, engine: Any, io: tuple[Shapes, Shapes]) -> None:
        trt = self._trt
        wanted = {(name, shape, mode) for mode, shapes in zip(("INPUT", "OUTPUT"), io, strict=True) for name, shape in shapes.items()}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {(n, tuple(engine.get_tensor_shape(n)), engine.get_tensor_mode(n).name) for n in names}
        if found != wanted or any(engine.get_tensor_dtype(n) != trt.float32 for n in names):
            raise EngineError(
                f"the engine of the {self._name} graph takes and gives {sorted(found)}, the bundle means {sorted(wanted)}, all in float32. "
                f"Build it again with --rebuild"
            )

    def _context_of(self, engine: Any) -> Any:
        if self._kernels is None or not hasattr(self._trt, "IRuntimeCache"):
            return engine.create_execution_context()
        runtime_config = engine.create_runtime_config()
        runtime_cache = runtime_config.create_runtime_cache()
        kept = self._kept_kernels()
        if kept is not None:
            # What is of another version or GPU is refused and made anew.
            runtime_cache.deserialize(kept)
        runtime_config.set_runtime_cache(runtime_cache)
        self._config, self._cache = runtime_config, runtime_cache
        return engine.create_execution_context(runtime_config)

    def _kept_kernels(self) -> bytes | None:
        """Return what an earlier load compiled, None where it left nothing. Raises EngineError for what cannot be read."""
        if self._kernels is None:
            return None
        try:
            return read_file(self._kernels, MOST_ENGINE_BYTES, inside=self._kernels.parent)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise EngineError(f"{self._kernels} cannot be read: {err.strerror}. Remove it: it is made again at the next load") from None

    def _diagnosed(self, runtime: Any, plan: bytes) -> list[str]:
        """Return in words why TensorRT-RTX says that a plan does not fit this machine."""
        if not hasattr(runtime, "get_engine_validity"):
            return []
        _, flags = runtime.get_engine_validity(plan)
        known = self._trt.EngineInvalidityDiagnostics.__members__
        return [name.replace("_", " ").lower() for name, flag in known.items() if int(flags) & int(flag)]

    @contextmanager
    def _explaining(self) -> Iterator[list[str]]:
        """Yield the list that gains what TensorRT says of errors meanwhile."""
        errors: list[str] = []
        with heard_by(self._trt, lambda level, message: errors.append(message) if level >= logging.ERROR else None):
            yield errors

    def _refusal(self, what: str, errors: list[str]) -> EngineError:
        reasons = "; ".join(errors[-QUOTED:]) or "TensorRT gave no reason"
        return EngineError(f"{self._trt.__name__} {self._trt.__version__}: the {self._name} engine {what}: {reasons}")
