"""Bindings of TensorRT versions, installed once for the whole run."""

from __future__ import annotations

import pytest

from .bindings import Surfaces


@pytest.fixture(scope="session")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Surfaces:
    """What each TensorRT version has; a version's bindings come from PyPI when it is first asked for."""
    return Surfaces(tmp_path_factory.mktemp("tensorrt"))
