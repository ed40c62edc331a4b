"""Where the commands' log records go: to standard error, as text for people or as lines of JSON for machines."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


class LogOutput:
    """Shows the records of ``diffpose_edge.*`` from ``listen()`` to ``close()``; the library itself sets up nothing."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("diffpose_edge")
        self._level = self._logger.level
        self._handler: logging.Handler | None = None
        self._json = False

    def listen(self, form: str, level: str | None) -> None:
        """Show records as ``form``, of ``level`` and above (None: warnings, and more where a command tells more).

        As JSON nothing else goes to standard error: no progress. Raises MissingPackage without python-json-logger, DiffPoseEdgeError.
        """
        from diffpose_edge.errors import DiffPoseEdgeError

        if form not in FORMATS:
            raise DiffPoseEdgeError(f"expected a log format out of {', '.join(FORMATS)}, got {form!r}")
        if level is not None and level not in LEVELS:
            raise DiffPoseEdgeError(f"expected a log level out of {', '.join(LEVELS)}, got {level!r}")
        self.close()
        self._handler = _json_handler() if form == "json" else _text_handler()
        self._json = form == "json"
        if level is not None:
            self._handler.setLevel(level.upper())
        self._logger.setLevel("WARNING" if level is None else level.upper())
        self._logger.addHandler(self._handler)
        _progress(shown=not self._json)

    def refuse(self, err: Exception) -> None:
        """Tell of the mistake that the command ends with."""
        if self._json:
            self._logger.error("%s", err, extra={"event": "refused", "kind": type(err).__name__})
        else:
            print(f"error: {err}", file=sys.stderr)

    def close(self) -> None:
        """Let go of the records; a second call does nothing."""
        if self._handler is not None:
            self._logger.removeHandler(self._handler)
            self._handler.close()
            self._logger.setLevel(self._level)
            self._handler, self._json = None, False
            _progress(shown=True)

    def __enter__(self) -> LogOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def _text_handler() -> logging.Handler:
    from diffpose_edge.cli.terminal import ToTerminal

    return ToTerminal()


def _json_handler() -> logging.Handler:
    from diffpose_edge.extras import require

    require("pythonjsonlogger")
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler(sys.stderr)
    renamed = {"levelname": "level", "name": "logger"}
    handler.setFormatter(JsonFormatter("{levelname}{name}{message}", style="{", rename_fields=renamed, timestamp=True))
    return handler


def _progress(*, shown: bool) -> None:
    from diffpose_edge.cli import terminal

    terminal.err.quiet = not shown
