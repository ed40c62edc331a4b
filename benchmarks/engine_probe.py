"""Whether the GPU takes engines at all: with each TensorRT that is installed the least of engines is built and run.

Run: ``python -m diffpose_edge.benchmarks.engine_probe``. It ends with 0 when one of them is taken, with 3 when every one is
refused, with 1 when none could be asked. Each TensorRT is asked in a process of its own: polygraphy drives one in a process,
and a library that meets a GPU which it does not know may end its process.
"""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import ExitStack, closing

from diffpose_edge.config import BatchShape, GraphNetworkConfig
from diffpose_edge.engines import FLAVOURS
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.export.engine_build import built_plan
from diffpose_edge.export.start_graph import start_graph
from diffpose_edge.extras import is_installed, require
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.cuda import DeviceBuffer, Stream, open_cuda
from diffpose_edge.runtime.start_graph import start_io
from diffpose_edge.runtime.tensorrt_engine import TensorRTEngine, tensorrt_module

REFUSED = 3
# The start graph has no weights: its manifest, of the released kind, is all that it needs.
_SIZE = GraphNetworkConfig(hidden=96, layers=5, heads=4)
LEAST = Manifest(denoiser=_SIZE, context=_SIZE, shape=BatchShape(), alpha_bar=(0.9, 0.5), timesteps=(1,), files={})
# A refusal that is no message but a crash is told by the end of what the process had said.
LAST_WORDS = 2000


def try_engine(flavour: str) -> None:
    """Build the start graph with a flavour and run it once on the first GPU. Raises DiffPoseEdgeError in the words of what refused."""
    with closing(open_cuda()) as cuda, cuda.current(), ExitStack() as stack:
        plan = built_plan(start_graph(LEAST).SerializeToString(), "the start graph in fp32", flavour, "fp32").plan
        inputs, outputs = start_io(LEAST)
        stream = stack.enter_context(Stream(cuda))
        sizes = {name: 4 * math.prod(shape) for name, shape in {**inputs, **outputs}.items()}
        buffers = {name: stack.enter_context(DeviceBuffer(cuda, size)) for name, size in sizes.items()}
        # Last in, first out: an engine goes before what it was bound to.
        engine = TensorRTEngine(tensorrt_module(flavour), plan, "start", (inputs, outputs))
        stack.callback(engine.close)
        engine.bind({name: buffer.address for name, buffer in buffers.items()})
        engine.enqueue(stream.handle)
        stream.synchronize()


def refusals() -> dict[str, str | None]:
    """Return for each TensorRT that is installed None, when the GPU takes its engines, or the refusal in its own words.

    Raises MissingPackage when engines cannot be built here, whatever the GPU; CudaError when there is none.
    """
    require("onnx", "polygraphy")
    open_cuda().close()
    return {flavour: _refusal(flavour) for flavour, (module, _) in FLAVOURS.items() if is_installed(module)}


def _refusal(flavour: str) -> str | None:
    command = [sys.executable, "-m", "diffpose_edge.benchmarks.engine_probe", flavour]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return None
    if done.returncode == REFUSED:
        return " ".join(done.stdout.split())
    said = " ".join((done.stdout + done.stderr).split())
    return f"its process ended with {done.returncode}, having said: {said[-LAST_WORDS:] or 'nothing'}"


def main(arguments: list[str]) -> int:
    """Try the flavour that is named, or, without one, each that is installed, and say what came of it; return the exit code."""
    if arguments:
        try:
            try_engine(arguments[0])
        except DiffPoseEdgeError as refused:
            print(refused)
            return REFUSED
        return 0
    try:
        found = refusals()
    except DiffPoseEdgeError as unasked:
        print(f"engines: NOT TESTED: {unasked}")
        return 1
    for flavour, refusal in found.items():
        print(f"{flavour}: takes engines" if refusal is None else f"{flavour}: refused: {refusal}")
    if None in found.values():
        return 0
    told = "; ".join(f"{FLAVOURS[flavour][1]} refuses this GPU: {refusal}" for flavour, refusal in found.items())
    print(f"engines: NOT TESTED: {told or 'neither TensorRT nor TensorRT-RTX is installed'}")
    return REFUSED if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
