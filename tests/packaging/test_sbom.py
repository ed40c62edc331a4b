"""The bills of materials are of the lock files, and say nothing of the machine that they were made on."""

from __future__ import annotations

import json

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

import diffpose_edge
from supply.lockfile import PROJECT, ROOT, entries

OF = {"runtime-cpu": ("runtime-cpu",), "development": ("build", "test")}
# What they were made on: docs/supply-chain.md.
PLACE = {"python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux", "platform_system": "Linux"}
PLACE |= {"platform_machine": "x86_64", "os_name": "posix", "platform_python_implementation": "CPython", "extra": ""}


def text(name: str) -> str:
    return (ROOT / "supply" / "sbom" / f"{name}.cdx.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OF)
def test_a_bill_is_of_the_lock_files(name):
    """Where it is not: make sbom."""
    bill = json.loads(text(name))
    assert bill["specVersion"] == "1.6"
    listed = {canonicalize_name(c["name"]): Version(c["version"]).public for c in bill["components"]}
    assert listed == {entry.name: entry.version for entry in entries(*OF[name]) if entry.applies(PLACE)}
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == (PROJECT, diffpose_edge.__version__)


@pytest.mark.parametrize("name", OF)
def test_a_bill_has_neither_times_nor_paths(name):
    for sign in ("timestamp", "serialNumber", "file:", "/tmp", "/home", "/root", "/work", "site-packages"):
        assert sign not in text(name)


def test_the_graph_says_who_asks_for_whom():
    graph = {d["ref"].split("==")[0]: {n.split("==")[0] for n in d["dependsOn"]} for d in json.loads(text("runtime-cpu"))["dependencies"]}
    assert graph["root-component"] == {"numpy", "onnxruntime"}
    assert graph["onnxruntime"] >= {"numpy", "protobuf"}
    assert set().union(*graph.values()) | {"root-component"} == set(graph)
