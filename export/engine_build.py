"""Builds a bundle's engines: ONNX in, plan out, for TensorRT 8.6 to 11 and TensorRT-RTX, through Polygraphy where it fits.

From TensorRT 10 on networks are strongly typed: what the graph says is what is computed. 8.6 takes the precision as flags.
Which of the two a module knows is asked of the module, not of its version number.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_file
from diffpose_edge.engines import FLAVOURS
from diffpose_edge.errors import DiffPoseEdgeError, EngineError, ExportError
from diffpose_edge.extras import require
from diffpose_edge.runtime.tensorrt_engine import tensorrt_module
from diffpose_edge.runtime.tensorrt_messages import heard_by, logger_of

# Hears (phase, steps done, steps in all); 0 of n when it begins.
Progress = Callable[[str, int, int], None]
OPTIMISATION_LEVELS = range(6)
# Where the compiler's list of launches stands among its messages, when the plan is to be detailed.
LAUNCHES = "Layers:\n"
# What TensorRT says, in lower case, when memory for its tactics is short (NVIDIA/TensorRT issues 477, 2643, 3355, 4258), and
# what it says when there is enough but not within the limit.
SHORT_OF_MEMORY = ("outofmemory", "out of memory", "insufficient memory", "could not be allocated")
WORKSPACE_TOO_SMALL = ("insufficient workspace", "increasing the workspace")


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. ``workspace_mib``: what a tactic may use at most (None: TensorRT's default, all of the GPU's
    memory); ``optimisation_level`` 0..5 (None: TensorRT's default, 3); ``version_compatible``: for later versions of the
    same major one, too; ``hardware_compatible``: for every GPU from SM 8.0 on; both cost speed. ``timing_cache``: a file of
    measured tactics, read before and written after, which makes the next build faster.
    """

    workspace_mib: int | None = None
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise DiffPoseEdgeError(f"expected a workspace of at least 1 MiB, got {self.workspace_mib}")
        if self.optimisation_level is not None and self.optimisation_level not in OPTIMISATION_LEVELS:
            raise DiffPoseEdgeError(f"expected an optimisation level within 0..5, got {self.optimisation_level}")

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return {**asdict(self), "timing_cache": self.timing_cache is not None}


DEFAULT = BuildOptions()


@dataclass(frozen=True)
class BuiltPlan:
    """A plan, the seconds it took, the warnings and errors that were logged, and the compiler's list of launches, if it gave one."""

    plan: bytes
    seconds: float
    messages: tuple[str, ...]
    listing: str


def built_plan(
    content: bytes,
    name: str,
    flavour: str,
    precision: str,
    options: BuildOptions = DEFAULT,
    progress: Progress | None = None,
) -> BuiltPlan:
    """Build an ONNX file with the TensorRT of a flavour; ``name`` is what messages call it.

    ``precision`` is the graph's: it becomes flags where TensorRT still wants them (8.x). Raises ExportError, with the node
    and the reason, when the parser or the builder refuses the graph, EngineError when TensorRT cannot start (no GPU, say),
    MissingPackage.
    """
    trt, polygraphy = tensorrt_and_polygraphy(flavour)
    told = _Told()
    with heard_by(trt, told.hear, alone=True):
        builder = _builder(trt, told, flavour)
        # Polygraphy's loader of networks is not used: it prints the parser's errors instead of giving them, and hears each
        # warning once per process. Errors belong to the parser and die with it: they are made into text at once.
        typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        else:
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
        parser = trt.OnnxParser(network, logger_of(trt))
        parsed = parser.parse(content)
        refusals = [_error_text(parser, i) for i in range(parser.num_errors)]
        if refusals or not parsed:
            raise ExportError(_refusal(trt, flavour, name, refusals or told.bad))
        start = time.perf_counter()
        with polygraphy.logger.G_LOGGER.verbosity(polygraphy.logger.G_LOGGER.CRITICAL + 1):
            config = _config(trt, polygraphy, options, () if typed else _flags_for(precision), progress)
            try:
                with _timing_cache(options.timing_cache) as save:
                    plan = polygraphy.backend.trt.engine_bytes_from_network((builder, network, parser), config, save_timing_cache=save)
            except polygraphy.exception.PolygraphyException as err:
                raise ExportError(_refusal(trt, flavour, name, told.bad or [str(err)])) from None
        return BuiltPlan(bytes(memoryview(plan)), time.perf_counter() - start, tuple(told.bad), told.listing)


@contextmanager
def _timing_cache(path: Path | None) -> Iterator[str | None]:
    """Yield where polygraphy may put measured tactics: it writes over what is there, and leaves a lock file. Then put them in place."""
    if path is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, path.name)
        yield str(written)
        if written.is_file():
            with atomic_file(path) as temporary:
                shutil.copyfile(written, temporary)


def tensorrt_and_polygraphy(flavour: str) -> tuple[Any, Any]:
    """Return the module of a flavour and polygraphy, set to drive it. Raises MissingPackage, EngineError."""
    trt = tensorrt_module(flavour)
    require("polygraphy")
    import polygraphy.config

    if (flavour == "rtx") != polygraphy.config.USE_TENSORRT_RTX:
        # It is chosen once for each process, before polygraphy's part for TensorRT is imported.
        if "polygraphy.backend.trt" in sys.modules:
            raise EngineError(
                f"this process has built with another TensorRT already, and polygraphy drives one only: build with "
                f"{FLAVOURS[flavour][1]} in another process"
            )
        polygraphy.config.USE_TENSORRT_RTX = flavour == "rtx"
    import polygraphy.backend.trt
    import polygraphy.exception
    import polygraphy.logger

    return trt, polygraphy


def _builder(trt: Any, told: _Told, flavour: str) -> Any:
    try:
        return trt.Builder(logger_of(trt))
    except (RuntimeError, TypeError) as err:  # what the bindings raise when the library gives no builder
        reasons = "; ".join(told.bad) or str(err)
        raise EngineError(
            f"{FLAVOURS[flavour][1]} {trt.__version__} gives no builder: {reasons}. It needs an NVIDIA GPU and its driver"
        ) from None


def _flags_for(precision: str) -> tuple[str, ...]:
    """Return Polygraphy's names of the flags that a graph of this precision needs where networks are not strongly typed."""
    return {"fp32": (), "fp16": ("fp16",)}.get(precision, ("fp16", "int8"))


def _config(trt: Any, polygraphy: Any, options: BuildOptions, flags: tuple[str, ...], progress: Progress | None) -> Any:
    given: dict[str, Any] = dict.fromkeys(flags, True)
    if options.workspace_mib is not None:
        given["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: options.workspace_mib * 2**20}
    if options.hardware_compatible:
        given["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.timing_cache is not None and options.timing_cache.is_file():
        given["load_timing_cache"] = str(options.timing_cache)
    if progress is not None:
        given["progress_monitor"] = _monitor_of(trt, progress)

    def without_tf32(builder: Any, network: Any, config: Any) -> None:
        # It would round FP32 matmuls to 10 bits; whoever wants that speed takes FP16.
        config.clear_flag(trt.BuilderFlag.TF32)

    create = polygraphy.backend.trt.CreateConfig(
        profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
        builder_optimization_level=options.optimisation_level,
        version_compatible=options.version_compatible or None,
        # One stream: its work is captured, and helpers' streams would have to be captured with it.
        max_aux_streams=0,
        **given,
    )
    return polygraphy.backend.trt.PostprocessConfig(create, without_tf32)


def _monitor_of(trt: Any, progress: Progress) -> Any:
    """Return a monitor that tells ``progress`` of every phase, or None for TensorRT 8, which has none. It is called from other threads."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._sizes: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._sizes[phase] = steps
            progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self._sizes.get(phase, step + 1))
            return True  # False would cancel the build

        def phase_finish(self, phase: str) -> None:
            steps = self._sizes.pop(phase, 1)
            progress(phase, steps, steps)

    return Monitor()


class _Told:
    """Keeps warnings, errors and the list of launches."""

    def __init__(self) -> None:
        self.bad: list[str] = []
        self.listing = ""

    def hear(self, level: int, message: str) -> None:
        if level >= logging.WARNING:
            self.bad.append(message)
        elif message.startswith(LAUNCHES):
            self.listing = message


def _error_text(parser: Any, i: int) -> str:
    try:
        return str(parser.get_error(i)).replace("\n", " ")
    except UnicodeDecodeError:
        return "a node whose name is not UTF-8"


def _refusal(trt: Any, flavour: str, name: str, reasons: list[str]) -> str:
    told = "; ".join(dict.fromkeys(reasons))
    remedy, said = "", told.lower()
    if any(words in said for words in SHORT_OF_MEMORY):
        remedy = ". Memory is short: end other programs on the GPU, or limit what tactics may take, with --workspace 256, say (MiB)"
    elif any(words in said for words in WORKSPACE_TOO_SMALL):
        remedy = ". Tactics may take too little: give more with --workspace, or leave it out"
    return f"{FLAVOURS[flavour][1]} {trt.__version__} does not build {name}: {told}{remedy}"
