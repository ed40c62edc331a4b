"""What a maintainer needs of a fault of ours, in one small file on this machine. Nothing private is in it, and nothing is sent.

A :class:`CrashReports` is opened by the commands and by the ROS 2 node, for as long as they run; a program that embeds the runtime opens
one itself, or none. ``DIFFPOSE_CRASH_REPORTS`` names the folder, or is "off". docs/observability.md lists what a report holds.

Only the standard library: a report has to be written where little is installed and much has gone wrong.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import sys
import sysconfig
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

import diffpose_edge
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.events import fault_listeners
from diffpose_edge.hard_faults import FaultFile, left_faults
from diffpose_edge.machine import this_machine
from diffpose_edge.plain_words import plain, words_of
from diffpose_edge.readings import Histogram, Readable, known

FORMAT, FORMAT_VERSION = "diffpose-edge crash report", 1
VARIABLE = "DIFFPOSE_CRASH_REPORTS"
KEPT_FILES, KEPT_EVENTS = 10, 50
# One loop that fails again and again is told of a few times.
MOST_REPORTS = 3
MOST_ERRORS, MOST_FRAMES, MOST_KNOWN = 5, 60, 16
# Whose modules and functions may be named: everything else is the user's program.
PACKAGES = (
    "diffpose_edge",
    "numpy",
    "onnxruntime",
    "onnx",
    "torch",
    "typer",
    "click",
    "rich",
    "cyclonedds",
    "rosbags",
    "foxglove",
    "rclpy",
)
VERSIONS = (*PACKAGES[1:], "tensorrt", "cuda-bindings", "scipy", "prometheus-client")
OURS = "diffpose_edge"
log = logging.getLogger(__name__)
_BEGAN = monotonic()
_STDLIB = sysconfig.get_path("stdlib")


def crash_folder() -> Path | None:
    """Return where reports go: what DIFFPOSE_CRASH_REPORTS names, None for "off"; else the user's folder for what programs remember,
    ``$XDG_STATE_HOME/diffpose-edge/crashes`` (XDG Base Directory Specification), by default below ``~/.local/state``.
    """
    named = os.environ.get(VARIABLE, "")
    if named.lower() in ("off", "no", "0"):
        return None
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "diffpose-edge" / "crashes"


def is_fault(err: BaseException) -> bool:
    """Tell whether an exception is none that a user can mend, nor a wish to end."""
    return isinstance(err, Exception) and not isinstance(err, DiffPoseEdgeError | BrokenPipeError)


class CrashReports:
    """Writes reports into ``folder`` while it is open, and keeps the last log records for them; use it with ``with``.

    ``command`` is called for what was asked of the program, without its values. Python's own faulthandler is given a file in the folder,
    where nobody else has enabled it; what an earlier process left there becomes a report. None as the folder: nothing is done.
    """

    def __init__(self, folder: Path | None, command: Callable[[], Sequence[str]] = tuple):
        self.folder, self._command = folder, command
        self._events = _Events()
        self._lock = threading.Lock()
        self._written = 0
        self._faults: FaultFile | None = None
        self._closed = False
        if folder is None:
            return
        logging.getLogger(OURS).addHandler(self._events)
        fault_listeners.append(self.write)
        try:
            for fault in left_faults(folder):
                content = {"where": "an earlier process", "error": [fault], "versions": _versions(), "machine": _machine()}
                self._tell(self._put(content), "an earlier run ended in a hard fault")
            self._faults = FaultFile.opened(folder)
        except OSError as err:
            # A robot whose disk is read-only runs all the same.
            log.debug("faults cannot be kept in a file: %s", err, extra={"event": "crash_report"})

    def write(self, err: BaseException, where: str) -> Path | None:
        """Write a report of a fault; None for what is no fault, was reported before, or could not be written. Raises nothing."""
        if self.folder is None or not is_fault(err):
            return None
        try:
            with self._lock:
                if getattr(err, "_diffpose_reported", False) or self._written >= MOST_REPORTS:
                    return None
                self._written += 1
                err._diffpose_reported = True  # type: ignore[attr-defined]
            path = self._put({"where": where, "error": list(_errors(err))} | self._surroundings())
        except Exception as failure:
            # What went wrong is told by the exception itself; that its report failed as well must not take its place.
            log.error("no crash report could be written (%s)", type(failure).__name__, extra={"event": "crash_report"})
            return None
        self._tell(path, "this is a fault of DiffPose Edge, or of what it runs on")
        return path

    def close(self) -> None:
        """Let go of the log and of Python's faulthandler; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        logging.getLogger(OURS).removeHandler(self._events)
        if self.write in fault_listeners:
            fault_listeners.remove(self.write)
        if self._faults is not None:
            self._faults.close()

    def __enter__(self) -> CrashReports:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def _surroundings(self) -> dict[str, Any]:
        return {
            "command": list(self._command()),
            "uptime_s": round(monotonic() - _BEGAN, 3),
            "versions": _versions(),
            "machine": _machine(),
            "counted": [_counted(readable) for readable in known()[:MOST_KNOWN]],
            "events": list(self._events.kept),
        }

    def _put(self, content: Mapping[str, Any]) -> Path:
        """Write a report for its owner alone, whole or not at all, and remove the oldest. Raises OSError."""
        assert self.folder is not None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = datetime.now(timezone.utc)
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "written": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        text = json.dumps(head | dict(content), indent=1) + "\n"
        path = self.folder / f"crash-{now:%Y%m%dT%H%M%S%f}Z-{os.getpid()}.json"
        temporary = path.with_suffix(".partial")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for old in sorted(self.folder.glob("crash-*.json"))[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
        return path

    @staticmethod
    def _tell(path: Path, what: str) -> None:
        log.error("%s. A report for its maintainers is in %s: nothing was sent", what, path, extra={"event": "crash_report"})


class _Events(logging.Handler):
    """The last records of our own loggers, as far as they are our own words and whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        self._pass_on(record)
        fields = {
            name: value
            for name, value in record.__dict__.items()
            if name not in _STANDARD and type(value) in (int, bool) and re.fullmatch(r"[A-Za-z_]{1,40}", name)
        }
        event = getattr(record, "event", "")
        self.kept.append(
            {
                "uptime_s": round(monotonic() - _BEGAN, 3),
                "level": record.levelname,
                "logger": record.name,
                "event": event if re.fullmatch(r"[a-z_]{1,40}", str(event)) else "",
                # The text that the code is written with, never what was put into it; the linter (G004) sees to it that they stay apart.
                "message": str(record.msg)[:200] if record.args else plain(str(record.msg)),
                **({"fields": fields} if fields else {}),
            }
        )

    def _pass_on(self, record: logging.LogRecord) -> None:
        """Show warnings where nobody else listens, as Python would if we did not listen either."""
        alone = all(handler is self for logger in (logging.getLogger(OURS), logging.getLogger()) for handler in logger.handlers)
        if alone and logging.lastResort is not None and record.levelno >= logging.lastResort.level:
            logging.lastResort.handle(record)


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__)


def _errors(err: BaseException) -> Iterator[dict[str, Any]]:
    """Yield an exception and those that it came from, the latest first."""
    current: BaseException | None = err
    for _ in range(MOST_ERRORS):
        if current is None:
            return
        frames = list(traceback.walk_tb(current.__traceback__))
        words = {word for frame, _ in frames if _module_of(frame) is not None for word in words_of(frame.f_code)}
        yield {
            "type": _type_of(current),
            "message": plain(str(current), words),
            "frames": [_frame(frame, line) for frame, line in frames[-MOST_FRAMES:]],
        }
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _frame(frame: FrameType, line: int) -> dict[str, Any]:
    module = _module_of(frame)
    if module is None:
        return {"module": "<program>", "line": line}
    return {"module": module, "line": line, "function": frame.f_code.co_name}


def _module_of(frame: FrameType) -> str | None:
    """Return the name of a frame's module, None where it is the user's."""
    spec = frame.f_globals.get("__spec__")
    name = str(getattr(spec, "name", None) or frame.f_globals.get("__name__", ""))
    root, file = name.partition(".")[0], frame.f_code.co_filename
    if root in PACKAGES:
        return name
    # A program's own module may have the name of one of Python's.
    if root in sys.stdlib_module_names and (file.startswith("<frozen") or (file.startswith(_STDLIB) and "-packages" not in file)):
        return name
    return None


def _type_of(err: BaseException) -> str:
    """Return the name of an exception's class, or of the nearest one above it that is nobody's own."""
    for kind in type(err).__mro__:
        root = kind.__module__.partition(".")[0]
        if root == "builtins":
            return kind.__qualname__
        if root in PACKAGES:
            return f"{kind.__module__}.{kind.__qualname__}"
    return "BaseException"


def _versions() -> dict[str, str]:
    found = {name: version for name in VERSIONS if (version := _version(name)) is not None}
    return {"diffpose_edge": diffpose_edge.__version__, "python": platform.python_version(), **found}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    """Return what kind of machine this is; of the kernel the numbers alone, because whoever built it may have named it."""
    release = re.match(r"[\d.]+", platform.release())
    return {
        "system": platform.system(),
        "kernel": release[0] if release else "",
        "architecture": platform.machine(),
        "python": platform.python_implementation(),
        "libc": " ".join(platform.libc_ver()),
        "cores": os.cpu_count(),
        **this_machine(),
    }


def _counted(readable: Readable) -> dict[str, Any]:
    readings: dict[str, Any] = {}
    for reading in readable.readings():
        name = ", ".join((reading.name, *reading.labels.values()))
        value = reading.value
        readings[name] = {"counts": value.counts, "total_s": value.total_s} if isinstance(value, Histogram) else value
    return {"about": dict(readable.about), "readings": readings}
