"""Every attribute of TensorRT that the code touches is in every version that it is for; see bindings.py, touched.py, missing.py."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from .bindings import VERSIONS, Surfaces, Version
from .missing import missing_everywhere, missing_in, questions
from .touched import Touch, touched

ROOT = Path(__file__).parents[2]

# The modules that use TensorRT. A new one belongs here.
MODULES = ("export/engine_build.py", "runtime/tensorrt_engine.py", "runtime/tensorrt_messages.py")

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="the bindings that are installed here are for x86-64"
)


def parameter(version: Version) -> object:
    """A version as a test's parameter; the Python at work may be newer than a wheel, but a wheel that does not come is a failure."""
    reason = f"the bindings of {version} end with Python {version.newest_python[0]}.{version.newest_python[1]}"
    return pytest.param(version, id=str(version), marks=pytest.mark.skipif(not version.is_made_for_this_python, reason=reason))


every_version = pytest.mark.parametrize("version", [parameter(version) for version in VERSIONS])
needs_every_version = pytest.mark.skipif(
    not all(version.is_made_for_this_python for version in VERSIONS), reason="some bindings do not exist for this Python"
)


def touched_by(name: str) -> list[Touch]:
    return touched((ROOT / name).read_text(encoding="utf-8"), name)


def missing_from(surfaces: Surfaces, version: Version, source: str) -> list[str]:
    touches = touched(source, "snippet.py")
    return missing_in(str(version), touches, surfaces.present(version, questions(touches)))


def test_modules_that_use_tensorrt_are_found_and_read() -> None:
    for name in MODULES:
        assert touched_by(name), f"{name} does not use TensorRT, or no longer names its objects as touched.py expects"


@every_version
def test_what_the_code_comes_to_is_there(version: Version, surfaces: Surfaces) -> None:
    touches = [touch for name in MODULES for touch in touched_by(name)]
    missing = missing_in(str(version), touches, surfaces.present(version, questions(touches)))
    assert not missing, "\n" + "\n".join(missing)


@needs_every_version
@pytest.mark.parametrize("name", MODULES)
def test_every_question_is_answered_with_yes_somewhere(name: str, surfaces: Surfaces) -> None:
    touches = touched_by(name)
    missing = missing_everywhere(touches, {str(version): surfaces.present(version, questions(touches)) for version in VERSIONS})
    assert not missing, "\n" + "\n".join(missing)


@every_version
def test_a_made_up_attribute_is_reported(version: Version, surfaces: Surfaces) -> None:
    source = "builder = trt.Builder(logger)\nconfig.set_speed(trt.BuilderFlag.FAST)\nself._engine.num_io_tensors\n"
    assert missing_from(surfaces, version, source) == [
        f"snippet.py:2: IBuilderConfig.set_speed is not in {version}",
        f"snippet.py:2: BuilderFlag.FAST is not in {version}",
    ]


@every_version
def test_a_flag_that_was_removed_is_reported_unless_it_is_asked_for(version: Version, surfaces: Surfaces) -> None:
    """TensorRT 11 knows strongly typed networks only, and TensorRT-RTX never knew others: no flag turns FP16 on."""
    line = "config.set_flag(trt.BuilderFlag.FP16)"
    removed = version.product == "TensorRT-RTX" or version.number.startswith("11.")
    expected = [f"snippet.py:1: BuilderFlag.FP16 is not in {version}"] if removed else []
    assert missing_from(surfaces, version, line) == expected
    assert missing_from(surfaces, version, f"if hasattr(trt.BuilderFlag, 'FP16'):\n    {line}") == []


@needs_every_version
def test_a_misspelt_question_is_reported(surfaces: Surfaces) -> None:
    """Nothing else would: the code runs everywhere, and never does what the question guards."""
    source = "if hasattr(engine, 'streamable_weight_size'):\n    engine.streamable_weight_size\n"
    touches = touched(source, "snippet.py")
    versions = {str(version): surfaces.present(version, questions(touches)) for version in VERSIONS}
    asked = ", ".join(versions)
    assert missing_everywhere(touches, versions) == [
        f"snippet.py:{n}: ICudaEngine.streamable_weight_size is in none of {asked}" for n in (1, 2)
    ]
    right = touched(source.replace("weight_size", "weights_size"), "snippet.py")
    versions = {str(version): surfaces.present(version, questions(right)) for version in VERSIONS}
    assert missing_everywhere(right, versions) == []
