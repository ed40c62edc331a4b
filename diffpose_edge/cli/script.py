"""A function as a script's command line: benchmarks and the tools of training say of the user's mistakes what ``diffpose-edge`` says."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from diffpose_edge.cli.logs import LogOutput
from diffpose_edge.errors import DiffPoseEdgeError


def run_script(main: Callable[..., object]) -> None:
    """Call ``main`` with what the command line says, as ``typer.run`` does; print a DiffPoseEdgeError without traceback and exit with 2."""
    try:
        typer.run(main)
    except DiffPoseEdgeError as err:
        LogOutput().refuse(err)
        sys.exit(2)
