"""The command line, ``diffpose-edge``. :func:`main` is its entry point."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line: the user's mistakes are printed and exit with 2, SIGINT and SIGTERM with 130 and 143, anything else keeps its
    traceback and leaves a report.
    """
    from diffpose_edge.cli.logs import LogOutput
    from diffpose_edge.crash_report import CrashReports, crash_folder
    from diffpose_edge.errors import DiffPoseEdgeError
    from diffpose_edge.extras import require

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that has no sign for a character shows a question mark instead of a traceback.
            stream.reconfigure(errors="replace")
    with LogOutput() as output, CrashReports(crash_folder(), _asked) as reports:
        try:
            require("typer", "rich")
            from diffpose_edge.cli.interruption import stopping_cleanly

            with stopping_cleanly():
                from diffpose_edge.cli.app import app

                app(obj=output)
        except DiffPoseEdgeError as err:
            output.refuse(err)
            sys.exit(2)
        except Exception as err:
            reports.write(err, "command")
            raise


def _asked() -> list[str]:
    from typer.main import get_command

    from diffpose_edge.cli.app import app
    from diffpose_edge.cli.public_command import public_command

    return public_command(get_command(app), sys.argv[1:])
