"""TensorRT's messages, to Python's logging and to whoever listens.

A process has one logger for each TensorRT: the library keeps the first that it is given, ignores every later one, and goes on
using it when its owner is long gone. So it is made once and kept for ever, and what is of interest is heard while it lasts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)
# Hears a level of Python's logging and the text. Called from TensorRT's own threads, too.
Hear = Callable[[int, str], None]
_lock = threading.Lock()
_loggers: dict[Any, Any] = {}


def logger_of(trt: Any) -> Any:
    """Return the one logger for this module of TensorRT."""
    with _lock:
        if trt.ILogger not in _loggers:
            _loggers[trt.ILogger] = _logger_for(trt)
        return _loggers[trt.ILogger]


@contextmanager
def heard_by(trt: Any, hear: Hear, *, alone: bool = False) -> Iterator[None]:
    """Let ``hear`` have every message until the end of the block; ``alone``: Python's logging has them as DEBUG meanwhile."""
    logger = logger_of(trt)
    listener = (hear, alone)
    with _lock:
        logger.listeners = (*logger.listeners, listener)
    try:
        yield
    finally:
        with _lock:
            logger.listeners = tuple(other for other in logger.listeners if other is not listener)


def _logger_for(trt: Any) -> Any:
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listeners: tuple[tuple[Hear, bool], ...] = ()

        def log(self, severity: Any, message: str) -> None:
            level, listeners = levels[severity], self.listeners
            for hear, _ in listeners:
                hear(level, message)
            log.log(logging.DEBUG if any(alone for _, alone in listeners) else level, "%s", message)

    return Logger()
