"""The list of wheels for a machine without a network: whole by what the packages themselves ask for, and nothing beside it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "benchmarks" / "gpu-wheels.txt"
# What is imported by the suite, the probe, the benchmark, and what these make bundles with.
WANTED = {"pytest", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors", "polygraphy", "cuda-bindings", "typer", "rich"}
WANTED |= {"tensorrt-rtx-cu13"}
# A source package: the list has the command that makes its wheel.
SOURCE = "tensorrt-rtx-cu13"
# PyTorch's own, with numpy as the one that it was built with.
OF_TORCH = {"torch", "numpy", "typing-extensions", "sympy"}
THERE = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "platform_system": "Linux", "extra": ""}


def listed() -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in LIST.read_text().splitlines()]
    return {canonicalize_name(found.name): found for found in map(Requirement, filter(None, lines))}


def needed_by(name: str) -> list[Requirement]:
    found = [Requirement(text) for text in requires(name) or ()]
    return [need for need in found if need.marker is None or need.marker.evaluate(THERE)]


def test_the_list_is_whole_and_no_longer_than_it_has_to_be() -> None:
    have, open_, closed = set(listed()) | {SOURCE}, set(WANTED), set()
    while open_:
        name = open_.pop()
        closed.add(name)
        try:
            needs = {canonicalize_name(need.name) for need in needed_by(name)}
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        open_ |= needs - closed - OF_TORCH
    assert closed == have


def test_torch_brings_what_is_left_out() -> None:
    assert {canonicalize_name(need.name) for need in needed_by("torch")} >= OF_TORCH - {"torch", "numpy"}


def test_exact_versions_fit_each_other() -> None:
    have = listed()
    for name, found in have.items():
        pinned = re.fullmatch(r"==(.+)", str(found.specifier))
        if pinned is None or version(name) != pinned[1]:
            continue  # what it needs in that version is known only where it is installed
        for need in needed_by(name):
            other = have.get(canonicalize_name(need.name))
            exact = re.fullmatch(r"==(.+)", str(need.specifier))
            if exact is not None:
                assert other is not None
                assert str(other.specifier) == str(need.specifier)


def test_the_list_says_how_the_source_package_becomes_a_wheel() -> None:
    assert re.search(r"^#   pip wheel .* tensorrt_rtx_cu13 ", LIST.read_text(), re.MULTILINE)
