"""What a rule is, what it finds, and the list of all rules, which the modules lint_rules_* fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto as T

from diffpose_edge.export.lint_graph import Graph, Node
from diffpose_edge.export.lint_targets import TARGETS, Target

# refused: it does not parse or build. bad: it builds, and computes something else, or worse than it could. risk: it depends
# on something that the file does not show. note: worth knowing; nothing is wrong.
Severity = Literal["refused", "bad", "risk", "note"]
SEVERITIES: tuple[Severity, ...] = ("refused", "bad", "risk", "note")

EVERY = tuple(TARGETS)
OPERATORS_MD = "onnx-tensorrt, docs/operators.md of the release"
CHANGELOG_MD = "onnx-tensorrt, docs/Changelog.md"
IMPORTER = "onnx-tensorrt, QuantDequantLinearHelper of 8.x, 9.x and 10.x"
MEASURED = "measured on TensorRT-RTX 1.7.1"
EXPLICIT = "NVIDIA TensorRT documentation, Explicit Quantization, Q/DQ placement recommendations"


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong: what it is, what to do, on which targets, and what it stands on."""

    id: str
    what: str
    remedy: str
    source: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """What a rule's check reports: where, how bad it is there, and why."""

    severity: Severity
    reason: str
    node: Node | None = None
    tensor: str = ""


@dataclass(frozen=True)
class Finding:
    """A fault of a model on a target. ``node`` is "" when the model or a tensor as a whole is meant."""

    rule: str
    severity: Severity
    target: str
    node: str
    op: str
    tensor: str
    reason: str
    remedy: str
    source: str


Check = Callable[[Graph, Target], Iterator[Fault]]
RULES: dict[str, Rule] = {}
CHECKS: dict[str, Check] = {}


def rule(id: str, what: str, remedy: str, source: str, targets: tuple[str, ...] = EVERY) -> Callable[[Check], Check]:
    """Enter the decorated check, which is called with every graph of a model, as the rule ``id``."""

    def enter(check: Check) -> Check:
        RULES[id] = Rule(id, what, remedy, source, targets)
        CHECKS[id] = check
        return check

    return enter


def type_name(kind: int) -> str:
    """Return an element type as ONNX spells it."""
    return str(T.DataType.Name(kind)).lower() if kind in T.DataType.values() else f"type {kind}"
