"""The doubles of ROS messages have fields, types and constants of the real definitions, which rosbags ships for ROS 2 Jazzy."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from diffpose_edge.runtime.bridges.ros_types import OPTIONAL, PACKAGES

from .ros_doubles import Double, ros_doubles

typesys = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed: pip install rosbags (the extra 'ros' has it)")
STORE = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
DOUBLES = ros_doubles()
FULL_NAME = {name: f"{package}/msg/{name}" for package, names in (PACKAGES | OPTIONAL).items() for name in names}
PYTHON = {"float64": float, "float32": float, "string": str, "bool": bool, "octet": bytes, "byte": bytes}


def python_type(node: Any) -> Any:
    """The Python type that rclpy has for a field of a definition: a class, a double's name, or list."""
    kind, of = node
    if kind.name == "BASE":
        return PYTHON.get(of[0], int)
    return of.rsplit("/", 1)[1] if kind.name == "NAME" else list


@pytest.mark.parametrize("name", [f.name for f in fields(DOUBLES) if getattr(DOUBLES, f.name) is not None])
def test_a_doubles_fields_are_the_real_ones(name: str) -> None:
    double = getattr(DOUBLES, name)
    constants, definition = STORE.fielddefs[FULL_NAME[name]]
    real = {field: python_type(node) for field, node in definition}
    for field, default in double.FIELDS.items():
        kind = default if isinstance(default, type) else type(default)
        assert (kind.__name__ if issubclass(kind, Double) else kind) == real[field], field
    told = {constant: value for constant, _, value in constants}
    for constant in set(told) & set(vars(double)):
        value = getattr(double, constant)
        assert (value[0] if isinstance(value, bytes) else value) == told[constant]
