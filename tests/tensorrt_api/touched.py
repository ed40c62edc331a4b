"""Which attributes of TensorRT a source file touches, found by reading it.

Two kinds of expression are taken for TensorRT's: dotted names that start at ``trt``, and attributes of variables whose
name says what they hold (``CLASSES``, with or without ``self.`` and leading underscores). A chain is written as it
stands below the module: ``config.set_flag`` is "IBuilderConfig.set_flag".

Versions differ, so code asks before it touches: ``hasattr`` in an ``if``, a conditional expression, ``and`` or ``or``, or
``if not hasattr(...): return``. What stands under such a question carries it as a condition, and need not exist where the
condition does not hold. Names that are computed are not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# What the project's variables of these names hold, in modules that use TensorRT.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "cache": "ITimingCache",
    "timing_cache": "ITimingCache",
    "inspector": "EngineInspector",
    "profile": "IOptimizationProfile",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}


@dataclass(frozen=True)
class Condition:
    """A question that the code asks first: whether ``chain`` is there, and the answer with which it goes on."""

    chain: str
    present: bool


@dataclass(frozen=True)
class Touch:
    """An attribute that is touched, where, and under which conditions; all of them hold there."""

    chain: str
    place: str
    conditions: frozenset[Condition] = frozenset()


def touched(source: str, name: str) -> list[Touch]:
    """Return the attributes that ``source`` touches, in its order; ``name`` is what places call the file."""
    reader = _Reader(name)
    reader.visit(ast.parse(source, name))
    return reader.touches


_Conditions = frozenset[Condition]
_NONE: _Conditions = frozenset()


class _Reader(ast.NodeVisitor):
    def __init__(self, name: str) -> None:
        self.touches: list[Touch] = []
        self._name = name
        self._conditions = _NONE

    def visit(self, node: ast.AST) -> None:
        """Visit a node; blocks of statements in order, because one that leaves settles something for those after it."""
        if isinstance(node, ast.If):
            self._visit_if(node.test, node.body, node.orelse)
        elif isinstance(node, ast.IfExp):
            self._visit_if(node.test, [node.body], [node.orelse])
        elif isinstance(node, ast.BoolOp):
            self._visit_operands(node)
        elif isinstance(node, ast.Attribute):
            self._visit_attribute(node)
        elif isinstance(node, ast.Call):
            self._visit_call(node)
        else:
            self._visit_children(node)

    def _visit_children(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                self._visit_block([child for child in value if isinstance(child, ast.AST)])
            elif isinstance(value, ast.AST):
                self.visit(value)

    def _visit_block(self, nodes: Sequence[ast.AST]) -> None:
        with self._under(_NONE):
            for node in nodes:
                self.visit(node)
                if isinstance(node, ast.If):
                    met, unmet = _conditions(node.test)
                    self._conditions |= (unmet if _leaves(node.body) else _NONE) | (met if _leaves(node.orelse) else _NONE)

    def _visit_if(self, test: ast.expr, body: Sequence[ast.AST], orelse: Sequence[ast.AST]) -> None:
        met, unmet = _conditions(test)
        self.visit(test)
        with self._under(met):
            self._visit_block(body)
        with self._under(unmet):
            self._visit_block(orelse)

    def _visit_operands(self, node: ast.BoolOp) -> None:
        """``a and b`` comes to ``b`` when ``a`` is met, ``a or b`` when it is not."""
        with self._under(_NONE):
            for operand in node.values:
                self.visit(operand)
                met, unmet = _conditions(operand)
                self._conditions |= met if isinstance(node.op, ast.And) else unmet

    def _visit_attribute(self, node: ast.Attribute) -> None:
        chain = _chain(node)
        if chain is None:
            self.visit(node.value)
            return
        self._note(chain, node)
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):  # the beginnings of a chain go without saying
            inner = inner.value
        self.visit(inner)

    def _visit_call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr", "setattr"):
            chain = _asked(node)
            if chain is not None:
                # A question settles itself; that no version says yes to it is found all the same.
                settled = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
                with self._under(frozenset({Condition(chain, True)}) if settled else _NONE):
                    self._note(chain, node)
        self._visit_children(node)

    def _note(self, chain: str, node: ast.expr) -> None:
        self.touches.append(Touch(chain, f"{self._name}:{node.lineno}", self._conditions))

    @contextmanager
    def _under(self, conditions: _Conditions) -> Iterator[None]:
        before = self._conditions
        self._conditions = before | conditions
        yield
        self._conditions = before


def _conditions(test: ast.expr) -> tuple[_Conditions, _Conditions]:
    """Return what holds when a test is met, and what when it is not."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        met, unmet = _conditions(test.operand)
        return unmet, met
    if isinstance(test, ast.BoolOp):
        parts = [_conditions(operand) for operand in test.values]
        if isinstance(test.op, ast.And):
            return _NONE.union(*(met for met, _ in parts)), _NONE
        return _NONE, _NONE.union(*(unmet for _, unmet in parts))
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
        chain = _asked(test)
        if chain is not None:
            return frozenset({Condition(chain, True)}), frozenset({Condition(chain, False)})
    return _NONE, _NONE


def _asked(call: ast.Call) -> str | None:
    """Return the chain that a call of hasattr or the like is about, if it is TensorRT's and not computed."""
    match call.args:
        case [of, ast.Constant(value=str(name)), *_]:
            return _chain(ast.Attribute(of, name))
    return None


def _chain(node: ast.Attribute) -> str | None:
    """Return the chain below the module that an attribute is, or None if it is not TensorRT's."""
    held = _class_of(node.value)
    if held is not None:
        return f"{held}.{node.attr}"
    if _variable(node.value) == "trt":
        return node.attr
    # Further: of a class or an enumeration. What a property of an object holds is not known.
    if isinstance(node.value, ast.Attribute) and _is_of_module(node.value):
        return f"{_chain(node.value)}.{node.attr}"
    return None


def _class_of(node: ast.expr) -> str | None:
    """Return the class whose object an expression is: by the variable's name, or because it calls the class."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _variable(node.func.value) == "trt":
        return node.func.attr if node.func.attr[:1].isupper() else None
    return CLASSES.get(_variable(node) or "")


def _is_of_module(node: ast.Attribute) -> bool:
    while isinstance(node.value, ast.Attribute) and _variable(node.value) is None:
        node = node.value
    return _variable(node.value) == "trt"


def _variable(node: ast.expr) -> str | None:
    """Return the bare name of ``x``, ``_x``, ``self.x`` or ``self._x``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr.lstrip("_")
    return node.id.lstrip("_") if isinstance(node, ast.Name) else None


def _leaves(body: Iterable[ast.AST]) -> bool:
    """Whether a block always leaves the one around it."""
    return any(isinstance(node, ast.Return | ast.Raise | ast.Continue | ast.Break) for node in body)
