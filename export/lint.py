"""What a TensorRT would refuse in an ONNX graph, or silently do badly, with the reason and the remedy.

The model is read, never run. Rules stand in the modules ``lint_rules_*``, each with what it is based on; what differs
between TensorRT versions stands in ``lint_targets``. ``docs/lint.md`` lists the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from diffpose_edge.bundle import load_bundle

# These enter their rules into RULES when they are imported.
from diffpose_edge.export import (  # noqa: F401
    lint_rules_channels,
    lint_rules_half,
    lint_rules_model,
    lint_rules_operators,
    lint_rules_placement,
    lint_rules_quantisation,
)
from diffpose_edge.export.lint_graph import Graph, read_graphs
from diffpose_edge.export.lint_load import read_model
from diffpose_edge.export.lint_rules import CHECKS, RULES, SEVERITIES, Fault, Finding, Rule, Severity
from diffpose_edge.export.lint_targets import TARGETS, Target, target_of
from diffpose_edge.manifest import FOR_CPU

__all__ = [
    "RULES",
    "SEVERITIES",
    "TARGETS",
    "Finding",
    "Rule",
    "Severity",
    "Target",
    "counts",
    "files_of",
    "lint",
    "lint_all",
    "target_of",
]


def lint(model: str | Path | onnx.ModelProto, target: str | Target) -> list[Finding]:
    """Return what is wrong with a model for one target, the worst first.

    ``model`` is an ONNX file, or a model in memory, whose external weights, if any, are looked for in the working folder.
    Findings of severity "note" are no faults. Raises LintError when the file cannot be read or the target is not known.
    """
    return lint_all(model, (target,))


def lint_all(model: str | Path | onnx.ModelProto, targets: Iterable[str | Target] = tuple(TARGETS)) -> list[Finding]:
    """Return what :func:`lint` finds for each of several targets, target by target, reading the model once."""
    chosen = [target if isinstance(target, Target) else target_of(target) for target in targets]
    if isinstance(model, onnx.ModelProto):
        proto, folder = model, Path()
    else:
        proto, folder = read_model(model), Path(model).parent
    graphs = read_graphs(proto, folder)
    return [finding for target in chosen for finding in _findings(graphs, target)]


def counts(findings: Sequence[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity."""
    return {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}


def files_of(path: str | Path) -> dict[Path, tuple[str, ...]]:
    """Return the ONNX files that a path stands for, itself or every graph of a bundle, with the targets that each is for.

    A bundle has INT8 in two forms, one for TensorRT 8.6 and one for what came after it; its graphs for the CPU are for no TensorRT and
    left out. Raises BundleError when a folder is
    not a whole bundle.
    """
    path = Path(path)
    if not path.is_dir():
        return {path: tuple(TARGETS)}
    files = load_bundle(path).manifest.files
    for_8 = {"int8": False, "int8-trt8": True}
    return {
        path / name: tuple(target for target in TARGETS if for_8.get(entry.precision, target == "8.6") == (target == "8.6"))
        for name, entry in sorted(files.items())
        if name.endswith(".onnx") and not entry.precision.endswith(FOR_CPU)
    }


def _findings(graphs: Sequence[Graph], target: Target) -> list[Finding]:
    found = [
        _finding(RULES[name], fault, target)
        for name, check in CHECKS.items()
        if target.name in RULES[name].targets
        for graph in graphs
        for fault in check(graph, target)
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _finding(rule: Rule, fault: Fault, target: Target) -> Finding:
    label, op = (fault.node.label, fault.node.op) if fault.node else ("", "")
    return Finding(rule.id, fault.severity, target.name, label, op, fault.tensor, fault.reason, rule.remedy, rule.source)
