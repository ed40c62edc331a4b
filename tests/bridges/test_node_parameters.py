"""The node's parameters, and what is refused of them."""

from __future__ import annotations

from typing import Any

import pytest

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.bridges.node_parameters import PARAMETERS, checked_settings, default_of, refusal_of


def values(**changed: Any) -> dict[str, Any]:
    return {name: default_of(name) for name in PARAMETERS} | {"bundle": "folder"} | changed


def test_the_defaults_need_a_bundle_and_no_more() -> None:
    settings = checked_settings(values())
    assert (settings.source.threads, settings.source.steps, settings.image_size) == (None, None, None)
    assert settings.skeleton_topics == ("skeleton2d",)
    with pytest.raises(DiffPoseEdgeError, match="bundle"):
        checked_settings(values(bundle=""))


def test_every_default_lies_within_its_own_range_and_is_described() -> None:
    for name, parameter in PARAMETERS.items():
        assert refusal_of(name, default_of(name)) is None
        assert len(parameter.metadata["told"]) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("backend", "tensorrt8"), ("threads", -1), ("units", "metres"), ("ellipsoid_level", 1.0), ("queue_length", 0), ("input", "json")],
)
def test_a_value_that_cannot_be_is_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(DiffPoseEdgeError, match=name):
        checked_settings(values(**{name: value}))


def test_combinations_that_cannot_be_are_refused() -> None:
    with pytest.raises(DiffPoseEdgeError, match="image_height"):
        checked_settings(values(image_width=640))
    with pytest.raises(DiffPoseEdgeError, match="skeleton_topics"):
        checked_settings(values(input="skeleton2d", skeleton_topics=["a", "a"]))


def test_a_parameter_of_somebody_else_is_not_ours_to_refuse() -> None:
    assert refusal_of("use_sim_time", True) is None
