"""MediaPipe's pose landmarks of images, computed by a process with an environment of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DetectorError

PROTOCOL = 1
LANDMARKS = 33
WORKER = Path(__file__).with_name("mediapipe_worker.py")

# An answer has 33 rows of three numbers, some two thousand characters.
LONGEST_ANSWER = 65536
# Seconds that a worker whose input has ended may take to end itself.
PARTING = 5.0
# What is shown of its standard error when it fails.
LAST_LINES = 8


class MediaPipeDetector:
    """Finds one person in each image. Owns the process that does it: use ``with``, or ``close()``, which may be called twice.

    ``python``: the interpreter of an environment that has MediaPipe (:func:`diffpose_edge.detector.make_environment` makes one).
    The process has ``start_seconds`` to say that it is ready and ``answer_seconds`` for an image; one that takes longer, ends, or
    says what it should not is ended, and DetectorError raised with the last lines of its standard error. Not for several threads.
    """

    def __init__(
        self, python: str | Path, *, start_seconds: float = 120.0, answer_seconds: float = 60.0, worker: str | Path = WORKER
    ) -> None:
        self._answer_seconds = answer_seconds
        self._number = 0
        self._closed = False
        # A file and not a pipe: nobody has to read it for the worker to go on.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        command = [str(python), "-I", str(worker)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        except OSError as err:
            self._closed = True
            self._log.close()
            raise DetectorError(f"the detector's Python cannot be started: {python}: {err.strerror or err}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        try:
            hello = self._answer_to([], start_seconds, "before it was ready")
            if hello.get("protocol") != PROTOCOL or hello.get("landmarks") != LANDMARKS:
                raise self._failure(f"expected a detector of protocol {PROTOCOL} with {LANDMARKS} landmarks, it says {hello}")
        except BaseException:
            self.close()
            raise
        self.name = str(hello.get("detector", "unknown"))

    def detect(self, image: NDArray[np.uint8], *, first: bool = False) -> NDArray[np.float32]:
        """Return the landmarks (33, 3) of an image (h, w, 3), RGB: x, y in pixels and visibility within 0..1; NaN if nobody was found.

        x and y may lie outside the image: MediaPipe guesses joints that are out of sight, and says so by a low visibility. It
        follows the person from image to image and smooths; ``first``: this image begins another clip. Raises DetectorError.
        """
        if self._closed:
            raise DetectorError("this detector is closed; make a new one")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise DetectorError(f"expected an RGB image (h, w, 3) of uint8, got {image.shape} of {image.dtype}")
        h, w = image.shape[:2]
        self._number += 1
        header = json.dumps({"number": self._number, "width": w, "height": h, "first": first}).encode() + b"\n"
        try:
            answer = self._answer_to([header, np.ascontiguousarray(image).data], self._answer_seconds, f"at image {self._number}")
            return self._landmarks(answer)
        except BaseException:
            # What it would say next can no longer be told from what it was asked before.
            self.close()
            raise

    def _landmarks(self, answer: dict[str, Any]) -> NDArray[np.float32]:
        if answer.get("number") != self._number or "landmarks" not in answer:
            raise self._failure(f"expected the landmarks of image {self._number}, it says {str(answer)[:200]}")
        if answer["landmarks"] is None:
            return np.full((LANDMARKS, 3), np.nan, np.float32)
        try:
            marks = np.array(answer["landmarks"], np.float32)
        except (TypeError, ValueError):
            marks = np.empty(0, np.float32)
        if marks.shape != (LANDMARKS, 3) or not np.isfinite(marks).all() or (marks[:, 2] < 0).any() or (marks[:, 2] > 1).any():
            raise self._failure(f"expected {LANDMARKS} rows of x, y and visibility within 0..1, it says {str(answer['landmarks'])[:200]}")
        return marks

    def _answer_to(self, request: list[Any], seconds: float, when: str) -> dict[str, Any]:
        """Send the parts of a request and return the line that answers it. Raises DetectorError."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        # Killing it ends whichever of the two this process waits in: writing to one that does not read, or reading.
        watchdog = threading.Timer(seconds, end)
        watchdog.daemon = True
        watchdog.start()
        line = b""
        try:
            # One that has ended cannot be written to, and has nothing to say either: an empty line.
            with contextlib.suppress(BrokenPipeError):
                for part in request:
                    self._input.write(part)
                self._input.flush()
                line = self._output.readline(LONGEST_ANSWER)
        finally:
            watchdog.cancel()
        if late.is_set():
            raise self._failure(f"it gave no answer within {seconds:g} s {when}, and was ended")
        if not line:
            raise self._failure(f"it ended {when}, {self._ending()}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failure(f"expected a line of JSON {when}, it says {line[:200]!r}")
        return answer

    def _ending(self) -> str:
        try:
            status = self._process.wait(PARTING)
        except subprocess.TimeoutExpired:
            return "or at least closed its output"
        return f"with status {status}" if status >= 0 else f"with signal {-status}"

    def _failure(self, what: str) -> DetectorError:
        """Return the error for a worker that failed, with the last lines that it wrote to standard error; it is ended first."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        wrote = "\n  ".join(["; its last lines:", *lines]) if lines else "; it wrote nothing to standard error"
        return DetectorError(f"the detector failed: {what}{wrote}")

    def close(self) -> None:
        """End the process and wait for it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._input.close()
        try:
            self._process.wait(PARTING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._log.close()

    def __enter__(self) -> MediaPipeDetector:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
