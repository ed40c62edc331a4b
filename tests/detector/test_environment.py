"""The environment for MediaPipe: made whole or not at all. A script stands in for Python here; test_real_video makes the real one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffpose_edge.detector import environment
from diffpose_edge.detector.environment import environments_folder, installed_python, make_environment
from diffpose_edge.errors import DetectorError

# As Python does: "-m venv FOLDER" puts it into a folder, "-m pip install" succeeds, and the worker says that it is ready.
STAND_IN = """#!{python}
import json, os, shutil, sys
from pathlib import Path

log = Path({log!r})
log.write_text((log.read_text() if log.exists() else "") + " ".join(sys.argv[1:]) + "\\n")
if sys.argv[1:3] == ["-m", "venv"]:
    {venv}
    os.makedirs(sys.argv[3] + "/bin")
    shutil.copy(sys.argv[0], sys.argv[3] + "/bin/python")
elif sys.argv[1:3] == ["-m", "pip"]:
    {pip}
elif sys.argv[1] == "-I":
    {worker}
    print(json.dumps(dict(protocol=1, detector="double", landmarks=33)), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Put a stand-in for Python in the place of the one that would be used, and the environments into tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: tmp_path / "cache" / name)

    def make(venv: str = "pass", pip: str = "pass", worker: str = "pass") -> Path:
        path = tmp_path / "python"
        path.write_text(STAND_IN.format(python=sys.executable, log=str(tmp_path / "log"), venv=venv, pip=pip, worker=worker))
        path.chmod(0o755)
        monkeypatch.setattr(environment, "_usable_python", lambda: ((3, 12), str(path)))
        return path

    return make


def test_it_is_made_once_and_found_again(python, tmp_path):
    python()
    assert installed_python() is None
    stages = []
    made = make_environment(stage=stages.append)
    assert len(stages) == 3
    assert made.exists()
    assert made == installed_python()
    assert make_environment(stage=stages.append) == made
    assert len(stages) == 3, "the second time nothing is made"
    assert [path.name for path in environments_folder().iterdir()] == [made.parents[1].name], "nothing partial is left"
    venv, pip, start = (tmp_path / "log").read_text().splitlines()
    assert "venv" in venv
    for part in ("--no-deps", "--only-binary=:all:", "requirements.txt"):
        assert part in pip
    assert start.endswith("mediapipe_worker.py")


def test_what_a_killed_process_has_left_is_removed(python):
    python()
    left = environments_folder() / ".mediapipe.abcdefgh.diffpose-edge-partial" / "bin"
    left.mkdir(parents=True)
    made = make_environment()
    assert [path.name for path in environments_folder().iterdir()] == [made.parents[1].name]


def test_other_requirements_are_another_environment(python, tmp_path):
    python()
    made = make_environment()
    other = tmp_path / "other.txt"
    other.write_text("mediapipe==0.10.99\n")
    assert installed_python(other) is None
    assert make_environment(other) != made


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"venv": 'sys.exit("ensurepip is not available")'}, "its environment cannot be made .*ensurepip is not available"),
        ({"pip": 'sys.exit("ERROR: No matching distribution found")'}, "its packages cannot be installed .*No matching distribution found"),
        ({"worker": 'sys.exit("libGL.so.1 is missing")'}, "it ended before it was ready.*libGL.so.1 is missing"),
    ],
)
def test_a_failure_is_told_and_leaves_nothing_behind(python, fault, told):
    python(**fault)
    with pytest.raises(DetectorError, match=f"(?s){told}"):
        make_environment()
    assert installed_python() is None
    assert list(environments_folder().iterdir()) == []
    python()
    assert make_environment().exists(), "it can be tried again"


def test_a_python_that_is_too_new_looks_for_another_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DetectorError, match=r"needs Python 3\.10, 3\.11 or 3\.12 and this is 3\.14; none of them is on the PATH"):
        environment._usable_python()
    for name, status in (("python3.12", 127), ("python3.11", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    assert environment._usable_python() == ((3, 11), str(tmp_path / "python3.11")), "the stand-in for 3.12 starts nothing"


def test_every_requirement_is_pinned():
    lines = [line.split("#")[0].strip() for line in environment.REQUIREMENTS.read_text().splitlines()]
    assert "mediapipe==0.10.21" in lines
    assert all("==" in line for line in lines if line)
