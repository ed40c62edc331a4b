"""What the scanner finds in small sources, under which conditions, and what the rule makes of it."""

from __future__ import annotations

import pytest

from .missing import missing_everywhere, missing_in
from .touched import Condition, touched

# Chains in the order in which they are touched.
FOUND = [
    ("builder = trt.Builder(logger)", ["Builder"]),
    ("1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)", ["NetworkDefinitionCreationFlag.STRONGLY_TYPED"]),
    ("network.get_input(0)", ["INetworkDefinition.get_input"]),
    ("self._context.set_tensor_address(name, self._buffers.address)", ["IExecutionContext.set_tensor_address"]),
    ("self.engine.num_io_tensors", ["ICudaEngine.num_io_tensors"]),
    ("_parser.parse(content)", ["OnnxParser.parse"]),
    ("config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED", ["IBuilderConfig.profiling_verbosity", "ProfilingVerbosity.DETAILED"]),
    ("config.profiling_verbosity.name", ["IBuilderConfig.profiling_verbosity"]),
    ("trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)", ["Runtime.deserialize_cuda_engine", "Runtime", "Logger"]),
    ("class Logger(trt.ILogger):\n    def log(self): trt.ILogger.__init__(self)", ["ILogger", "ILogger.__init__"]),
    ("self._trt.TensorIOMode.INPUT", ["TensorIOMode.INPUT"]),
    ("getattr(config, 'flags')", ["IBuilderConfig.flags"]),
    ("setattr(config, 'flags', 0)", ["IBuilderConfig.flags"]),
    # Not TensorRT's, or not known to be.
    ("polygraphy.backend.trt.CreateConfig()", []),
    ("bundle.engine.path, self._bundle.context.name", []),
    ("getattr(config, name)", []),
]  # fmt: skip


@pytest.mark.parametrize(("source", "chains"), FOUND)
def test_attributes_are_found(source: str, chains: list[str]) -> None:
    touches = touched(source, "snippet.py")
    assert sorted(touch.chain for touch in touches) == sorted(chains)
    assert all(touch.conditions == frozenset() for touch in touches)


# Sources in which `config.x` stands where `config.y` is there, or is not.
GUARDED = [
    ("if hasattr(config, 'y'):\n    config.x", True),
    ("if not hasattr(config, 'y'):\n    pass\nelse:\n    config.x", True),
    ("if hasattr(config, 'y'):\n    pass\nelse:\n    config.x", False),
    ("config.x if hasattr(config, 'y') else None", True),
    ("hasattr(config, 'y') and config.x", True),
    ("hasattr(config, 'y') or config.x", False),
    ("if fast and hasattr(self._config, 'y'):\n    for i in range(3):\n        config.x", True),
    ("if hasattr(config, 'y') or slow:\n    pass\nelse:\n    config.x", False),
    ("def f(config):\n    if not hasattr(config, 'y'):\n        return\n    with a:\n        config.x", True),
    ("for a in b:\n    if hasattr(config, 'y'):\n        continue\n    config.x", False),
]

# Sources in which it stands where nothing is known of `config.y`.
UNGUARDED = [
    "if hasattr(config, 'y'):\n    pass\nconfig.x",
    "if hasattr(config, 'y') or fast:\n    config.x",
    "if fast and hasattr(config, 'y'):\n    pass\nelse:\n    config.x",
    "if not hasattr(config, 'y'):\n    print()\nconfig.x",
    "def f(config):\n    if not hasattr(config, 'y'):\n        return\ndef g(config):\n    config.x",
    "if hasattr(config, name):\n    config.x",
]


@pytest.mark.parametrize(("source", "present"), GUARDED)
def test_conditions_are_found(source: str, present: bool) -> None:
    (touch,) = (touch for touch in touched(source, "snippet.py") if touch.chain == "IBuilderConfig.x")
    assert touch.conditions == {Condition("IBuilderConfig.y", present)}


@pytest.mark.parametrize("source", UNGUARDED)
def test_what_is_not_guarded_carries_no_condition(source: str) -> None:
    (touch,) = (touch for touch in touched(source, "snippet.py") if touch.chain == "IBuilderConfig.x")
    assert touch.conditions == frozenset()


def test_a_question_and_a_default_need_their_attribute_somewhere_only() -> None:
    for source in ("hasattr(config, 'x')", "getattr(config, 'x', None)"):
        (touch,) = touched(source, "snippet.py")
        assert touch.conditions == {Condition("IBuilderConfig.x", True)}


OLD, NEW = {"ICudaEngine.size": True, "ICudaEngine.size_v2": False}, {"ICudaEngine.size": False, "ICudaEngine.size_v2": True}


def test_what_is_not_guarded_must_be_in_every_version() -> None:
    touches = touched("\nengine.size", "snippet.py")
    assert missing_in("old", touches, OLD) == []
    assert missing_in("new", touches, NEW) == ["snippet.py:2: ICudaEngine.size is not in new"]


def test_both_branches_may_be_for_a_version_each() -> None:
    touches = touched("engine.size_v2 if hasattr(engine, 'size_v2') else engine.size", "snippet.py")
    assert missing_in("old", touches, OLD) == missing_in("new", touches, NEW) == []
    assert missing_everywhere(touches, {"old": OLD, "new": NEW}) == []


def test_a_branch_of_the_wrong_name_is_reported() -> None:
    touches = touched("if hasattr(engine, 'size_v2'):\n    engine.size", "snippet.py")
    assert missing_in("new", touches, NEW) == ["snippet.py:2: ICudaEngine.size is not in new"]


def test_a_guarded_attribute_must_be_in_one_version() -> None:
    touches = touched("getattr(engine, 'size_v2', 0)", "snippet.py")
    assert missing_in("old", touches, OLD) == []
    assert missing_everywhere(touches, {"old": OLD, "new": NEW}) == []
    assert missing_everywhere(touches, {"old": OLD, "older": OLD}) == ["snippet.py:1: ICudaEngine.size_v2 is in none of old, older"]


def test_a_branch_for_versions_that_nobody_has_may_stay() -> None:
    """A message for those who have something older than all that is supported."""
    touches = touched("if not hasattr(engine, 'size_v2'):\n    raise ValueError(engine.size)", "snippet.py")
    assert missing_everywhere(touches, {"both": OLD | {"ICudaEngine.size_v2": True}}) == []
