"""Builds a graph with TensorRT-RTX, which needs no GPU for it: whether TensorRT takes the graph, and what it makes of it.

TensorRT-RTX shares parser and compiler with TensorRT, and its plan lists what a GPU will be asked to do: each launch,
with the types of its operands. So a graph that would not build, a matmul that lost its INT8, or an attention that is no
longer one kernel is found on any x86-64 computer. The plan itself is thrown away: it would run on desktop GPUs alone.
Nothing here measures time or accuracy.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from diffpose_edge.errors import ExportError
from diffpose_edge.export.engine_build import LAUNCHES, built_plan

_LAUNCH = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), "
    r"Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], Outputs: \[.*\], TacticName: .*?Metadata: ?(?P<nodes>.*)"
)
# Inside a tensor's description stand lists of its own, so it is taken by its fields.
_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[(?P<shape>[-\d,]*)\].*?Datatype: (?P<type>\w+).*?\}")
# Nodes are divided by control characters, so that a name may hold anything.
_NODE = re.compile(r"\[ONNX Layer: ([^\x1e\x1f]*)\]")

# From narrow to wide.
_PRECISIONS = {"Int8": "int8", "Half": "fp16", "Float": "fp32"}


@dataclass(frozen=True)
class Launch:
    """One kernel launch of a plan.

    ``kind`` is the compiler's word for it; ``nodes`` are the names of the ONNX nodes that it computes, or prepares
    something for; ``operands`` the types of its tensors that are larger than one number, constants last.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def is_matmul(self) -> bool:
        """Whether it is a matmul, alone or with the bias, activation or residual that follows; not one inside an attention."""
        return self.kind in ("gemm", "runtime_fusion")

    @property
    def is_attention(self) -> bool:
        """Whether it is a whole attention: both matmuls and the softmax between them."""
        return self.name.startswith("_gemm_mha")

    @property
    def precision(self) -> str:
        """What it multiplies in: int8, fp16 or fp32.

        It is INT8 only if two operands are: activations that meet weights of another type are converted first. A bias
        or a residual may be wider than what is multiplied.
        """
        seen = Counter(self.operands)
        for kind, precision in _PRECISIONS.items():
            if seen[kind] >= 2:
                return precision
        return next((precision for kind, precision in reversed(_PRECISIONS.items()) if kind in seen), "fp32")


@dataclass(frozen=True)
class BuildReport:
    """A graph that was built: seconds, bytes of the plan, warnings and errors that were logged, launches in their order."""

    seconds: float
    plan_bytes: int
    messages: tuple[str, ...]
    launches: tuple[Launch, ...]

    @property
    def matmuls(self) -> dict[str, int]:
        """How many matmuls run in which precision; those inside fused attentions are not among them."""
        return dict(Counter(launch.precision for launch in self.launches if launch.is_matmul))

    @property
    def fused_attentions(self) -> int:
        """How many attentions are one launch each."""
        return sum(launch.is_attention for launch in self.launches)


def built(content: bytes, name: str = "the graph") -> BuildReport:
    """Build an ONNX file, strongly typed, for every GPU from SM 8.0 on; ``name`` is what messages call it.

    Raises ExportError, with the node and the reason, when TensorRT-RTX refuses it; MissingPackage.
    """
    made = built_plan(content, name, "rtx", "fp32")
    return BuildReport(made.seconds, len(made.plan), made.messages, launches_of(made.listing))


def launches_of(listing: str) -> tuple[Launch, ...]:
    """Return the launches in the compiler's list of them; raises ExportError when it is not in the form of this version."""
    launches = []
    for line in listing.removeprefix(LAUNCHES).split("\n"):
        if not line.startswith("Name: "):
            break  # what follows the blank line are the plan's inputs and outputs
        found = _LAUNCH.match(line)
        if found is None:
            raise ExportError(f"this version of TensorRT-RTX describes a launch in a new way: {line[:120]}")
        tensors = [_TENSOR.finditer(found[part]) for part in ("inputs", "constants")]
        operands = tuple(tensor["type"] for part in tensors for tensor in part if tensor["shape"] not in ("", "1"))
        launches.append(Launch(found["name"], found["kind"], tuple(_NODE.findall(found["nodes"])), operands))
    if not launches:
        raise ExportError("this version of TensorRT-RTX does not list the launches of a plan; the tested one is 1.7")
    return tuple(launches)
