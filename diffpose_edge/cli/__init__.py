"""The command line, ``diffpose-edge``. :func:`main` is its entry point."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line: the user's mistakes are printed and exit with 2, anything else keeps its traceback."""
    from diffpose_edge.errors import DiffPoseEdgeError
    from diffpose_edge.extras import require

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that has no sign for a character shows a question mark instead of a traceback.
            stream.reconfigure(errors="replace")
    try:
        require("typer", "rich")
        from diffpose_edge.cli.app import app

        app()
    except DiffPoseEdgeError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
