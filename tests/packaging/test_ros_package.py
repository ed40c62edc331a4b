"""The ROS 2 package that colcon builds says of the node what the node is."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import diffpose_edge
from diffpose_edge.runtime.bridges.node_parameters import PARAMETERS, default_of
from diffpose_edge.runtime.bridges.ros_types import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ros" / "diffpose_edge_ros"
MANIFEST = ElementTree.parse(PACKAGE / "package.xml").getroot()
SETUP = (PACKAGE / "setup.py").read_text(encoding="utf-8")


def test_name_version_and_build_type_agree_everywhere() -> None:
    name, version = MANIFEST.findtext("name"), MANIFEST.findtext("version")
    assert (name, version, MANIFEST.findtext("export/build_type")) == ("diffpose_edge_ros", diffpose_edge.__version__, "ament_python")
    assert f'NAME = "{name}"' in SETUP
    assert f'version="{version}"' in SETUP
    # What ament finds the package by, and where ros2 run looks for the executable.
    assert (PACKAGE / "resource" / str(name)).is_file()
    assert (PACKAGE / "setup.cfg").read_text(encoding="utf-8").count(f"$base/lib/{name}") == 2


def test_every_file_that_setup_installs_is_there() -> None:
    keywords = [keyword for node in ast.walk(ast.parse(SETUP)) if isinstance(node, ast.Call) for keyword in node.keywords]
    [files] = [keyword.value for keyword in keywords if keyword.arg == "data_files"]
    told = [path.replace("{NAME}", "diffpose_edge_ros") for path in re.findall(r"\[f?'([^']+)'\]", ast.unparse(files))]
    assert len(told) == 4
    assert all((PACKAGE / path).is_file() for path in told)


def test_the_manifest_depends_on_every_package_whose_messages_are_filled() -> None:
    assert {*PACKAGES, "rclpy", "tf2_msgs"} <= {depend.text for depend in MANIFEST.findall("exec_depend")}


def test_the_executable_is_the_nodes_main() -> None:
    assert "diffpose_edge_node = diffpose_edge_ros.node:main" in SETUP
    node = (PACKAGE / "diffpose_edge_ros" / "node.py").read_text(encoding="utf-8")
    [module] = re.findall(r"from (\S+) import main", node)
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert "\ndef main(" in Path(spec.origin).read_text(encoding="utf-8")


def test_the_parameters_file_has_every_default_but_the_bundle() -> None:
    lines = (PACKAGE / "config" / "diffpose_edge.yaml").read_text(encoding="utf-8").splitlines()
    words = {"true": True, "false": False}
    told = dict(line.strip().split(": ", 1) for line in lines if line.startswith("    "))
    read = {name: words[value] if value in words else ast.literal_eval(value) for name, value in told.items()}
    assert read == {name: default_of(name) for name in PARAMETERS if name != "bundle"}


def test_the_documentation_names_every_topic_of_the_parameters() -> None:
    page = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
    for name in PARAMETERS:
        if name.endswith("_topic"):
            assert f"`{default_of(name)}`" in page, name
