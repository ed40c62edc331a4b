"""The Python environment that MediaPipe runs in: made once, for this user, in the folder for caches."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from diffpose_edge.detector.mediapipe_detector import MediaPipeDetector
from diffpose_edge.errors import DetectorError
from diffpose_edge.exchange import rename_to_new
from diffpose_edge.extras import require
from diffpose_edge.temporaries import Temporary, remove_ownerless

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

# Those that have wheels of everything in requirements.txt.
PYTHONS = ((3, 10), (3, 11), (3, 12))
LAST_LINES = 6


def environments_folder() -> Path:
    """Return the folder in which environments are kept: below the user's folder for caches, as the system has it."""
    require("platformdirs")
    import platformdirs

    return platformdirs.user_cache_path("diffpose-edge", appauthor=False) / "detectors"


def _place(version: tuple[int, int], requirements: Path) -> Path:
    # Named by what is in it: other requirements are another environment.
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    return environments_folder() / f"mediapipe-py{version[0]}{version[1]}-{digest}"


def _python_in(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed_python(requirements: Path = REQUIREMENTS) -> Path | None:
    """Return the interpreter of the environment that :func:`make_environment` has made, None if there is none."""
    # What stands under the name is whole: it was moved there when it was.
    made = (_python_in(_place(version, requirements)) for version in reversed(PYTHONS))
    return next((python for python in made if python.exists()), None)


def make_environment(requirements: Path = REQUIREMENTS, stage: Callable[[str], None] = lambda name: None) -> Path:
    """Make the environment and return its interpreter: a venv, pinned packages from PyPI (some 120 MB), a start of the detector.

    ``stage`` is told of the three. An environment that is there already is kept. Raises DetectorError, with what venv or pip said
    last; nothing is then left behind.
    """
    made = installed_python(requirements)
    if made is not None:
        return made
    version, python = _usable_python()
    place = _place(version, requirements)
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_ownerless(place.parent)
    with Temporary(place, folder=True) as partial:
        stage("making a Python environment")
        _run([python, "-m", "venv", str(partial)], "its environment cannot be made")
        stage("installing MediaPipe")
        # Compiled is only what gets imported, when it is: all of it would take as long as the rest.
        pip = [str(_python_in(partial)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-compile"]
        _run([*pip, "--no-deps", "--only-binary=:all:", "--requirement", str(requirements)], "its packages cannot be installed")
        stage("starting it")
        with MediaPipeDetector(_python_in(partial)):
            pass
        with suppress(FileExistsError):  # another process has been quicker
            rename_to_new(partial, place)
    return _python_in(place)


def _usable_python() -> tuple[tuple[int, int], str]:
    """Return version and path of a Python that the packages have wheels for: this one, or one found on the PATH."""
    own = sys.version_info[:2]
    if own in PYTHONS:
        return own, sys.executable
    for version in reversed(PYTHONS):
        name = f"python{version[0]}.{version[1]}"
        found = shutil.which(name)
        # What has the name may be a stand-in that starts nothing.
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return version, found
    raise DetectorError(
        f"MediaPipe needs Python 3.10, 3.11 or 3.12 and this is {own[0]}.{own[1]}; none of them is on the PATH. Install one (it is used "
        f"for the detector alone), or name one that has mediapipe 0.10.21 with --detector-python"
    )


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        last = "\n  ".join(done.stdout.splitlines()[-LAST_LINES:])
        raise DetectorError(f"the detector cannot be set up: {failure} ({' '.join(command[1:4])}, status {done.returncode}):\n  {last}")
