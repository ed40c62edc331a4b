"""The node's parameters as rclpy declares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult

from diffpose_edge.runtime.bridges.node_parameters import PARAMETERS, default_of, refusal_of


def declare(node: Any) -> None:
    """Declare every parameter on a node, with its description, and its range or choices."""
    for name, parameter in PARAMETERS.items():
        default = default_of(name)
        descriptor = ParameterDescriptor(description=parameter.metadata["told"])
        if parameter.metadata["of"] is not None:
            descriptor.additional_constraints = "one of: " + ", ".join(parameter.metadata["of"])
        if parameter.metadata["within"] is not None:
            low, high = parameter.metadata["within"]
            if isinstance(default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
        node.declare_parameter(name, default, descriptor)


def refusing(configured: Callable[[], bool], parameters: list[Any]) -> Any:
    """Answer a wish to set parameters: refused for a value that cannot be, and for all of ours while the node is configured."""
    for parameter in parameters:
        refusal = refusal_of(parameter.name, parameter.value)
        if refusal is None and parameter.name in PARAMETERS and configured():
            refusal = f"{parameter.name} is taken when the node is configured: deactivate it and clean it up first"
        if refusal is not None:
            return SetParametersResult(successful=False, reason=refusal)
    return SetParametersResult(successful=True)
