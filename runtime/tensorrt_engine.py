"""An engine of TensorRT or TensorRT-RTX, deserialised and ready to be enqueued."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from diffpose_edge.engines import FLAVOURS
from diffpose_edge.errors import EngineError
from diffpose_edge.extras import require
from diffpose_edge.manifest import Shapes

log = logging.getLogger(__name__)


def tensorrt_module(flavour: str) -> Any:
    """Return the Python module of a flavour out of FLAVOURS. Raises MissingPackage; EngineError when it cannot be loaded."""
    module = FLAVOURS[flavour][0]
    require(module)
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as err:  # the libraries behind it are missing or of another CUDA
        raise EngineError(f"{FLAVOURS[flavour][1]} is installed but cannot be loaded: {err}") from err


def logger_of(trt: Any) -> Any:
    """Return a logger that passes TensorRT's messages to Python's logging, and keeps the last errors for ours to quote."""
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=5)

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level >= logging.ERROR:
                self.errors.append(message)
            log.log(level, "%s", message)

    return Logger()


class TensorRTEngine:
    """See :class:`diffpose_edge.runtime.device_backend.Engine`. The device's context must be current where it is made and used.

    ``io``: names and shapes of inputs and outputs that the engine must have, all in float32. Raises EngineError when the plan
    is none, is refused, or takes anything else.
    """

    def __init__(self, trt: Any, plan: bytes, name: str, io: tuple[Shapes, Shapes]):
        self._trt, self._name = trt, name
        self._logger = logger_of(trt)
        try:
            runtime = trt.Runtime(self._logger)
        except (RuntimeError, TypeError) as err:  # what the bindings raise when the library gives none
            raise EngineError(self._explained(f"has nothing to run on ({err})")) from None
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True  # version-compatible plans carry a small runtime of their own
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(self._explained("is not an engine that this TensorRT takes"))
        self._check(engine, io)
        context = engine.create_execution_context()
        if context is None:
            raise EngineError(self._explained("got no execution context"))
        self._runtime, self._engine, self._context = runtime, engine, context

    def bind(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(self._explained(f"did not take the address {address:#x} for {name}"))

    def enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise EngineError(self._explained("did not run"))

    def describe(self) -> dict[str, Any]:
        return {"backend": self._trt.__name__, "version": self._trt.__version__}

    def close(self) -> None:
        # In this order: a context holds its engine, an engine its runtime.
        self._context = self._engine = self._runtime = None

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

    def _explained(self, what: str) -> str:
        reasons = "; ".join(self._logger.errors) or "TensorRT gave no reason"
        return f"{self._trt.__name__} {self._trt.__version__}: the {self._name} engine {what}: {reasons}"
