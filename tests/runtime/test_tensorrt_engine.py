"""An engine of TensorRT: what of it is checked, whose words an error has, and the order in which it goes. TensorRT is a stand-in here."""

from __future__ import annotations

import logging
import os
import weakref
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import diffpose_edge.extras
from diffpose_edge.errors import EngineError, MissingPackage
from diffpose_edge.runtime import tensorrt_engine
from diffpose_edge.runtime.tensorrt_engine import TensorRTEngine, tensorrt_module
from diffpose_edge.runtime.tensorrt_messages import logger_of

IO = ({"x": (6, 17, 5), "timestep": (1,)}, {"x_next": (6, 17, 5)})


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity


class Context:
    def __init__(self, engine: Any):
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []
        self.refuses = ""

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self.refuses == name:
            self.engine.runtime.logger.log(Severity.ERROR, f"{name} is not aligned")
            return False
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        return self.refuses != "run"


class Engine:
    def __init__(self, runtime: Any, tensors: dict[str, tuple[tuple[int, ...], str, str]]):
        self.runtime, self.tensors = runtime, tensors
        self.num_io_tensors = len(tensors)
        self.context: Any = Context

    def get_tensor_name(self, i: int) -> str:
        return list(self.tensors)[i]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][0]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name][1])

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name][2]

    def create_execution_context(self) -> Any:
        return self.context(self)


RIGHT = {
    "timestep": ((1,), "INPUT", "float32"),
    "x": ((6, 17, 5), "INPUT", "float32"),
    "x_next": ((6, 17, 5), "OUTPUT", "float32"),
}


class TensorRT:
    """The module: ``tensors`` are those of the engine that any plan becomes."""

    __name__, __version__, float32 = "tensorrt", "10.3.0", "float32"
    ILogger = ILogger

    def __init__(self, tensors: dict[str, tuple[tuple[int, ...], str, str]] | None = RIGHT):
        self.tensors = tensors
        self.runtimes: list[Any] = []
        self.gives_runtime, self.gives_context = True, True

    def Runtime(self, logger: Any) -> Any:  # TensorRT's own name
        if not self.gives_runtime:
            logger.log(Severity.ERROR, "no kernel image for this GPU")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        runtime = SimpleNamespace(logger=logger, engine_host_code_allowed=False)
        runtime.deserialize_cuda_engine = self._deserialised(runtime)
        self.runtimes.append(runtime)
        return runtime

    def _deserialised(self, runtime: Any) -> Any:
        def deserialise(plan: bytes) -> Any:
            if self.tensors is None:
                runtime.logger.log(Severity.WARNING, "only a warning")
                runtime.logger.log(Severity.ERROR, "magic tag does not match")
                return None
            engine = Engine(runtime, self.tensors)
            if not self.gives_context:
                engine.context = lambda engine: None
            return engine

        return deserialise


def engine_of(trt: TensorRT) -> TensorRTEngine:
    return TensorRTEngine(trt, b"plan", "step", IO)


def test_it_binds_and_runs_where_it_is_told() -> None:
    engine = engine_of(TensorRT())
    engine.bind({"x": 0x100, "x_next": 0x200})
    engine.bind({"x": 0x300})
    engine.enqueue(7)
    assert engine._context.addresses == {"x": 0x300, "x_next": 0x200}
    assert engine._context.streams == [7]
    assert engine.describe() == {"backend": "tensorrt", "version": "10.3.0"}


def test_plans_that_bring_a_runtime_of_their_own_may_use_it() -> None:
    trt = TensorRT()
    engine_of(trt)
    assert trt.runtimes[0].engine_host_code_allowed is True


@pytest.mark.parametrize(
    "changes",
    [
        {"x": ((6, 17, 4), "INPUT", "float32")},
        {"x": ((-1, 17, 5), "INPUT", "float32")},
        {"x": ((6, 17, 5), "OUTPUT", "float32")},
        {"x_next": ((6, 17, 5), "OUTPUT", "float16")},
        {"timestep": ((1,), "INPUT", "int64")},
        {"feature": ((2, 17, 16), "INPUT", "float32")},
    ],
    ids=str,
)
def test_an_engine_of_another_graph_is_refused_with_what_it_takes(changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"the engine of the step graph takes and gives .*the bundle means .*--rebuild") as caught:
        engine_of(TensorRT({**RIGHT, **changes}))
    for shape, _, _ in changes.values():
        assert str(shape) in str(caught.value)


def test_an_engine_that_lacks_an_input_is_refused() -> None:
    with pytest.raises(EngineError, match="takes and gives"):
        engine_of(TensorRT({name: RIGHT[name] for name in ("x", "x_next")}))


def test_a_plan_that_is_none_is_refused_with_the_reason() -> None:
    with pytest.raises(EngineError) as caught:
        engine_of(TensorRT(None))
    assert str(caught.value) == "tensorrt 10.3.0: the step engine is not an engine that this TensorRT takes: magic tag does not match"


def test_without_a_runtime_or_a_context_it_is_an_error_of_ours() -> None:
    trt = TensorRT()
    trt.gives_runtime = False
    with pytest.raises(EngineError, match="no kernel image for this GPU"):
        engine_of(trt)
    trt = TensorRT()
    trt.gives_context = False
    with pytest.raises(EngineError, match="got no execution context: TensorRT gave no reason"):
        engine_of(trt)


def test_what_is_refused_later_is_told_too() -> None:
    engine = engine_of(TensorRT())
    engine._context.refuses = "x"
    with pytest.raises(EngineError, match="did not take the address 0x101 for x: x is not aligned"):
        engine.bind({"x": 0x101})
    engine._context.refuses = "run"
    with pytest.raises(EngineError, match="the step engine did not run"):
        engine.enqueue(7)


def test_a_context_goes_before_its_engine_and_an_engine_before_its_runtime() -> None:
    engine, order = engine_of(TensorRT()), []
    trt_runtime = engine._engine.runtime
    # Each is held by itself alone, as in TensorRT, where a wrong order is a crash.
    engine._context.engine = engine._engine.runtime = None
    trt_runtime.deserialize_cuda_engine = None
    weakref.finalize(engine._context, order.append, "context")
    weakref.finalize(engine._engine, order.append, "engine")
    holder = type("Runtime", (), {})()
    engine._runtime = holder
    weakref.finalize(holder, order.append, "runtime")
    del holder
    engine.close()
    engine.close()
    assert order == ["context", "engine", "runtime"]


# --- kernels that TensorRT-RTX compiles where it runs ---


class Cache:
    """A runtime cache: what it was given to read, and what it has compiled."""

    def __init__(self) -> None:
        self.read: bytes | None = None
        self.compiled = b"kernels of step"

    def deserialize(self, content: bytes) -> bool:
        self.read = content
        return True

    def serialize(self) -> bytes:
        return self.compiled


class RTX(TensorRT):
    """The module with a runtime cache, as TensorRT-RTX has one."""

    __name__, IRuntimeCache = "tensorrt_rtx", Cache

    def __init__(self) -> None:
        super().__init__()
        self.caches: list[Cache] = []

    def _deserialised(self, runtime: Any) -> Any:
        real = super()._deserialised(runtime)

        def deserialise(plan: bytes) -> Any:
            engine = real(plan)
            config = SimpleNamespace(create_runtime_cache=Cache, set_runtime_cache=self.caches.append)
            engine.create_runtime_config = lambda: config
            engine.create_execution_context = lambda given: engine.context(engine) if given is config else None
            return engine

        return deserialise


def test_compiled_kernels_are_kept_for_the_next_load(tmp_path: Path) -> None:
    kernels = tmp_path / "step.fp16.sm120.kernels"
    first = RTX()
    engine = TensorRTEngine(first, b"plan", "step", IO, kernels)
    assert first.caches[0].read is None
    engine.keep_kernels()
    assert kernels.read_bytes() == b"kernels of step"
    second = RTX()
    engine = TensorRTEngine(second, b"plan", "step", IO, kernels)
    assert second.caches[0].read == b"kernels of step"
    written = kernels.stat().st_mtime_ns
    engine.keep_kernels()
    assert kernels.stat().st_mtime_ns == written, "nothing new was compiled"
    second.caches[0].compiled += b", more"
    engine.keep_kernels()
    assert kernels.read_bytes() == b"kernels of step, more"
    assert [path.name for path in tmp_path.iterdir()] == [kernels.name]


def test_where_kernels_cannot_be_kept_it_is_said_and_the_engine_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, tensorrt_engine.log.name)
    engine = TensorRTEngine(RTX(), b"plan", "step", IO, tmp_path / "no folder" / "step.kernels")
    engine.keep_kernels()
    assert "compiled again at the next load: cannot write" in caplog.text
    engine.enqueue(7)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_kernels_that_cannot_be_read_are_named_with_the_remedy(tmp_path: Path, kind: str) -> None:
    kernels = tmp_path / "here" / "step.kernels"
    kernels.parent.mkdir()
    if kind == "folder":
        kernels.mkdir()
    elif kind == "pipe":
        os.mkfifo(kernels)
    else:
        (tmp_path / "outside").write_bytes(b"secret")
        kernels.symlink_to("../outside")
    with pytest.raises(EngineError, match=r"step\.kernels cannot be read: it .*Remove it: it is made again at the next load"):
        TensorRTEngine(RTX(), b"plan", "step", IO, kernels)


def test_tensorrt_proper_has_no_kernels_to_keep(tmp_path: Path) -> None:
    engine = TensorRTEngine(TensorRT(), b"plan", "step", IO, tmp_path / "step.kernels")
    engine.keep_kernels()
    assert not list(tmp_path.iterdir())


# --- what TensorRT says ---


def test_an_error_quotes_the_last_few_messages_of_its_own_time() -> None:
    trt = TensorRT(None)
    logger_of(trt).log(Severity.ERROR, "of yesterday")
    real = trt._deserialised

    def talkative(runtime: Any) -> Any:
        for i in range(100):
            runtime.logger.log(Severity.ERROR, f"error {i}")
        return real(runtime)

    trt._deserialised = talkative  # type: ignore[method-assign]
    with pytest.raises(EngineError) as caught:
        engine_of(trt)
    assert str(caught.value).endswith("that this TensorRT takes: error 96; error 97; error 98; error 99; magic tag does not match")


def test_tensorrt_rtx_says_why_a_plan_does_not_fit() -> None:
    class Flags(IntEnum):
        VERSION_MISMATCH = 1
        UNSUPPORTED_CC = 2
        OLD_CUDA_DRIVER = 4

    trt: Any = TensorRT(None)
    trt.EngineInvalidityDiagnostics = Flags
    real = trt.Runtime

    def runtime(logger: Any) -> Any:
        made = real(logger)
        made.get_engine_validity = lambda plan: (None, 6)
        return made

    trt.Runtime = runtime
    with pytest.raises(EngineError, match=r"magic tag does not match; unsupported cc; old cuda driver$"):
        engine_of(trt)


# --- the module ---


def test_a_module_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffpose_edge.extras, "is_installed", lambda module: False)
    with pytest.raises(MissingPackage, match="needs the package 'tensorrt'"):
        tensorrt_module("tensorrt")


@pytest.mark.parametrize("failure", [ImportError("libnvinfer.so.10: cannot open"), OSError("libcudart.so.12"), RuntimeError("no CUDA")])
def test_a_module_that_cannot_be_loaded_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def importing(name: str) -> Any:
        raise failure

    monkeypatch.setattr(tensorrt_engine, "require", lambda *modules: None)
    monkeypatch.setattr(tensorrt_engine.importlib, "import_module", importing)
    with pytest.raises(EngineError, match=f"TensorRT is installed but cannot be loaded: {failure}"):
        tensorrt_module("tensorrt")
