"""Tests that take the fixture ``double`` run in a process whose NVIDIA driver is driver_double.c; the others start processes.

LD_LIBRARY_PATH counts when a process starts, and the double must not be the driver of the other tests. So a module's tests
are run once more by a pytest inside, and what that found is what they report here.
"""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from diffpose_edge.runtime.cuda import Cuda, open_cuda

from .double import INSIDE, INSTALLED, DriverDouble, compiled, process


class Outcomes:
    """What the pytest inside said of each test of a module."""

    def __init__(self, module: Path, library: Path, report: Path) -> None:
        # Without the plugins and fixtures of the other tests, which take longer to import than these tests to run.
        options = ("-q", "-p", "no:cacheprovider", "--confcutdir", str(module.parent), "--junitxml", str(report))
        variables = {INSIDE: library, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": 1, "PYTEST_ADDOPTS": ""}
        result = process("-m", "pytest", str(module), *options, library=library, **variables)
        self._output = f"{result.stdout[-4000:]}{result.stderr[-4000:]}\nit ended with {result.returncode}"
        self._cases = {case.get("name"): case for case in ET.parse(report).iter("testcase")} if report.exists() else {}

    def relay(self, name: str) -> None:
        """Fail or skip as the test inside did."""
        if name not in self._cases:
            pytest.fail(f"the process inside did not come to this test:\n{self._output}", pytrace=False)
        for found in self._cases[name]:
            if found.tag == "skipped":
                pytest.skip(found.get("message", ""))
            if found.tag in ("failure", "error"):
                pytest.fail(f"inside:\n{found.text}", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Ask the pytest inside instead of calling the test's function."""
    outcomes = pyfuncitem.funcargs.get("double")
    if not isinstance(outcomes, Outcomes):
        return None
    outcomes.relay(pyfuncitem.name)
    return True


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the double lies, compiled."""
    if sys.platform != "linux":
        pytest.skip("the double of the driver is written for Linux")
    return Path(os.environ[INSIDE]) if INSIDE in os.environ else compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def _outcomes(request: pytest.FixtureRequest, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes | None:
    if INSIDE in os.environ:
        return None
    return Outcomes(request.path, library, tmp_path_factory.mktemp("outcomes") / "report.xml")


@pytest.fixture
def double(_outcomes: Outcomes | None) -> Iterator[DriverDouble | Outcomes]:
    """The double, new for each test."""
    if _outcomes is not None:
        yield _outcomes
        return
    double = DriverDouble()
    double.reset()
    yield double
    double.reset()


@pytest.fixture(params=INSTALLED)
def provider(request: pytest.FixtureRequest, double: DriverDouble) -> str:
    """The name of each installed provider in turn."""
    if request.param == "pycuda":
        # It refers to all functions of the driver, and the double has few: look each up when it is called, not now.
        sys.setdlopenflags(os.RTLD_LAZY)
    return str(request.param)


@pytest.fixture
def cuda(double: DriverDouble | Outcomes, provider: str) -> Iterator[Cuda | None]:
    """A GPU of the double, open. When the test has passed, nothing of it may be left."""
    if isinstance(double, Outcomes):
        yield None
        return
    with closing(open_cuda(provider)) as cuda:
        yield cuda
        assert double.alive() == {"context": 1}, "given back before the GPU was closed"
        assert double.depth() == 0
    assert double.alive() == {}
    assert double.depth() == 0
