"""The detector's process: what it is asked and answers, and every way in which it can fail. The workers are real processes.

Most are scripts that stand in for MediaPipe's; the last tests run the worker that ships, over a double of the mediapipe package.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.detector.mediapipe_detector import WORKER, MediaPipeDetector
from diffpose_edge.errors import DetectorError

# Speaks the protocol; each fault replaces a line of it.
SOUND = """
import json, os, signal, sys, time

def say(**message):
    print(json.dumps(message), flush=True)

print("a warning of no importance", file=sys.stderr, flush=True)
say(protocol=1, detector="double 1.0", landmarks=33)
while line := sys.stdin.buffer.readline():
    request = json.loads(line)
    image = sys.stdin.buffer.read(3 * request["width"] * request["height"])
    if sum(image) == 0:
        rows = None
    else:
        rows = [[image[0], image[-1], i / 32] for i in range(33)]
        rows[1] = [request["width"], request["height"], float(request["first"])]
    say(number=request["number"], landmarks=rows)
"""
HELLO = 'say(protocol=1, detector="double 1.0", landmarks=33)'
ANSWER = 'say(number=request["number"], landmarks=rows)'
READ = "while line := sys.stdin.buffer.readline():"

Start = Callable[..., MediaPipeDetector]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a detector of a script, or of the sound one with a line replaced; seconds are short."""

    def started(old: str = "", new: str = "", *, script: str = SOUND, seconds: float = 20.0) -> MediaPipeDetector:
        import sys

        assert old in script
        path = tmp_path / "worker.py"
        path.write_text(script.replace(old, new) if old else script)
        return MediaPipeDetector(sys.executable, start_seconds=seconds, answer_seconds=seconds, worker=path)

    return started


def picture(h: int = 4, w: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (h, w, 3)).astype(np.uint8)


def is_gone(pid: int) -> bool:
    """Tell whether a child has ended and has been waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_image_goes_there_and_landmarks_come_back(start: Start) -> None:
    with start() as detector:
        assert detector.name == "double 1.0"
        image = picture(1080, 1921)  # much more than a pipe holds
        marks = detector.detect(image, first=True)
        assert marks.shape == (33, 3)
        assert marks.dtype == np.float32
        assert marks[0].tolist() == [image[0, 0, 0], image[-1, -1, 2], 0.0]
        assert marks[1].tolist() == [1921, 1080, 1.0]
        # Not contiguous, and another size.
        cut = image[::2, ::3]
        again = detector.detect(cut)
        assert again[0].tolist()[:2] == [cut[0, 0, 0], cut[-1, -1, 2]]
        assert again[1].tolist() == [641, 540, 0.0]


def test_nobody_found_is_nan(start: Start) -> None:
    with start() as detector:
        assert np.isnan(detector.detect(np.zeros((2, 2, 3), np.uint8))).all()
        assert np.isfinite(detector.detect(picture())).all()


def test_it_ends_its_process_and_may_be_closed_twice(start: Start) -> None:
    detector = start()
    process = detector._process
    detector.close()
    detector.close()
    assert process.returncode == 0, "it ended by itself, because its input did"
    assert is_gone(process.pid)
    with pytest.raises(DetectorError, match="closed; make a new one"):
        detector.detect(picture())


def test_a_process_that_does_not_end_with_its_input_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.detector.mediapipe_detector.PARTING", 0.2)
    with start(READ, "time.sleep(60)\n" + READ) as detector:
        process = detector._process
    assert process.returncode == -signal.SIGKILL
    assert is_gone(process.pid)


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ('sys.exit("no mediapipe here")', r"it ended before it was ready, with status 1; its last lines:.*no mediapipe here"),
        ('raise ImportError("numpy 2 is too new")', r"status 1.*ImportError: numpy 2 is too new"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"it ended before it was ready, with signal 11"),
        ("os.close(1); time.sleep(60)", r"it ended before it was ready, or at least closed its output"),
        (HELLO.replace("1,", "2,", 1), r"expected a detector of protocol 1 with 33 landmarks, it says \{'protocol': 2"),
        (HELLO.replace("33", "17"), r"with 33 landmarks, it says .*17"),
        ("print('ready', flush=True)", r"expected a line of JSON before it was ready, it says b'ready"),
        ("print('[1]', flush=True)", r"expected a line of JSON before it was ready"),
        ("print('x' * 10_000_000)", r"expected a line of JSON before it was ready, it says b'xxx"),
    ],
)
def test_a_worker_that_does_not_start(start: Start, monkeypatch: pytest.MonkeyPatch, new: str, told: str) -> None:
    monkeypatch.setattr("diffpose_edge.detector.mediapipe_detector.PARTING", 0.5)
    with pytest.raises(DetectorError, match=f"(?s){told}"):
        start(HELLO, new)


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("sys.exit(3)", "it ended at image 1, with status 3; its last lines:\n  a warning of no importance"),
        ("raise RuntimeError('no memory left')", "status 1.*RuntimeError: no memory left"),
        ("print('W0000 some library says hello', flush=True)", "expected a line of JSON at image 1"),
        (ANSWER.replace('["number"]', '["number"] + 1'), "expected the landmarks of image 1, it says .*2"),
        ("say(number=1)", "expected the landmarks of image 1"),
        (ANSWER.replace("rows", "rows[:17]"), "expected 33 rows of x, y and visibility"),
        (ANSWER.replace("rows", "'none'"), "expected 33 rows of x, y and visibility"),
        (ANSWER.replace("rows", "[[1, 2, 1.5]] * 33"), "visibility within 0..1"),
        (ANSWER.replace("rows", "[[1, float('nan'), 1]] * 33"), "expected 33 rows"),
        (ANSWER.replace("rows", "[[1, 2, 1], [1, 2]]"), "expected 33 rows"),
    ],
)
def test_a_worker_that_fails_at_an_image_is_ended(start: Start, new: str, told: str) -> None:
    with start(ANSWER, new) as detector:
        process = detector._process
        with pytest.raises(DetectorError, match=f"(?s){told}"):
            detector.detect(picture())
        assert is_gone(process.pid)
        with pytest.raises(DetectorError, match="closed"):
            detector.detect(picture())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ANSWER, "time.sleep(60)"),  # it reads, and says nothing
        (READ, "time.sleep(60)\n" + READ),  # it does not even read: an image is more than the pipe holds
    ],
)
def test_a_worker_that_hangs_is_ended_in_time(start: Start, old: str, new: str) -> None:
    begun = time.monotonic()
    with start(old, new, seconds=1.5) as detector:
        process = detector._process
        with pytest.raises(DetectorError, match=r"gave no answer within 1.5 s at image 1, and was ended; its last lines:"):
            detector.detect(picture(500, 500))
        assert is_gone(process.pid)
    assert time.monotonic() - begun < 30


def test_a_worker_that_hangs_at_the_start_is_ended(start: Start) -> None:
    with pytest.raises(DetectorError, match=r"no answer within 0.5 s before it was ready"):
        start(HELLO, "time.sleep(60)", seconds=0.5)


def test_an_interrupt_while_it_waits_leaves_no_stale_answer_behind(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with start() as detector:
        process = detector._process

        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(detector, "_answer_to", interrupted)
        with pytest.raises(KeyboardInterrupt):
            detector.detect(picture())
        assert is_gone(process.pid)


@pytest.mark.parametrize(("shape", "kind"), [((4, 4), "uint8"), ((4, 4, 4), "uint8"), ((4, 4, 3), "float64"), ((0, 4, 3), "uint8")])
def test_what_is_no_image_is_refused(start: Start, shape: tuple[int, ...], kind: str) -> None:
    with start() as detector:
        with pytest.raises(DetectorError, match="expected an RGB image"):
            detector.detect(np.zeros(shape, kind))
        assert np.isfinite(detector.detect(picture())).all(), "it was never asked, and goes on"


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"cannot be started: .*no-python: No such file"):
        MediaPipeDetector(tmp_path / "no-python")


# The worker that ships, run over a double of the package that it imports.
OVER_A_DOUBLE = f"""
import os, runpy, sys, types

print("banner of a library, before anything")


class Pose:
    images = 0

    def __init__(self, model_complexity):
        assert model_complexity == 1
        print("printed by Python"); os.system("echo printed by a child")

    def __enter__(self):
        return self

    def __exit__(self, *of):
        print("closed", file=sys.stderr)

    def reset(self):
        Pose.images = 0

    def process(self, image):
        Pose.images += 1
        os.write(1, b"printed by a library in C")
        marks = None
        if image.any():
            mark = lambda i: types.SimpleNamespace(x=i / 32, y=image[0, 0, 0] / 255, visibility=Pose.images / 10)
            marks = types.SimpleNamespace(landmark=[mark(i) for i in range(33)])
        return types.SimpleNamespace(pose_landmarks=marks)


double = types.ModuleType("mediapipe")
double.__version__ = "0.0"
double.solutions = types.SimpleNamespace(pose=types.SimpleNamespace(Pose=Pose))
sys.modules["mediapipe"] = double
sys.stdout = sys.stderr
runpy.run_path({str(WORKER)!r}, run_name="__main__")
"""


def test_the_worker_that_ships_answers_in_pixels_and_resets(start: Start) -> None:
    with start(script=OVER_A_DOUBLE) as detector:
        assert detector.name == "mediapipe 0.0"
        image = np.full((10, 20, 3), 51, np.uint8)
        marks = detector.detect(image, first=True)
        np.testing.assert_allclose(marks[:, 0], 20 * np.arange(33) / 32)
        np.testing.assert_allclose(marks[:, 1], 10 * 51 / 255)
        np.testing.assert_allclose(marks[:, 2], 0.1)
        assert np.isnan(detector.detect(np.zeros((4, 4, 3), np.uint8))).all()
        assert detector.detect(image)[0, 2] == np.float32(0.3), "the clip goes on"
        assert detector.detect(image, first=True)[0, 2] == np.float32(0.1), "another clip"


def test_the_worker_that_ships_lets_its_owner_deal_with_interrupts(start: Start) -> None:
    with start(script=OVER_A_DOUBLE) as detector:
        detector._process.send_signal(signal.SIGINT)
        assert np.isfinite(detector.detect(picture())).all()
        process = detector._process
    assert process.returncode == 0


def test_the_worker_that_ships_says_which_mediapipe_is_too_new(start: Start) -> None:
    with pytest.raises(DetectorError, match=r"mediapipe 0\.0 has no 'solutions' any more: 0.10.21 has"):
        start("double.solutions = ", "unused = ", script=OVER_A_DOUBLE)
