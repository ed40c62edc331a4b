"""TensorRT's messages: one logger for each TensorRT, for ever, and who listens hears what is said meanwhile. TensorRT is a stand-in."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import weakref
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from diffpose_edge.runtime import tensorrt_messages
from diffpose_edge.runtime.tensorrt_messages import heard_by, logger_of


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


@pytest.fixture
def trt() -> Any:
    """A module of TensorRT that no other test has used."""
    return SimpleNamespace(ILogger=type("ILogger", (), {"Severity": Severity}))


def test_messages_go_to_pythons_logging_by_their_severity(trt: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, tensorrt_messages.log.name)
    for severity in Severity:
        logger_of(trt).log(severity, f"100% {severity.name}")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", "100% INTERNAL_ERROR"),
        ("ERROR", "100% ERROR"),
        ("WARNING", "100% WARNING"),
        ("DEBUG", "100% INFO"),
        ("DEBUG", "100% VERBOSE"),
    ]


def test_who_hears_alone_keeps_errors_from_the_screen(trt: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, tensorrt_messages.log.name)
    heard: list[tuple[int, str]] = []
    with heard_by(trt, lambda *message: heard.append(message), alone=True):
        logger_of(trt).log(Severity.ERROR, "refused")
    logger_of(trt).log(Severity.ERROR, "later")
    assert heard == [(logging.ERROR, "refused")]
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("DEBUG", "refused"), ("ERROR", "later")]


def test_there_is_one_logger_which_outlives_everybody(trt: Any) -> None:
    first = weakref.ref(logger_of(trt))
    gc.collect()
    assert first() is not None
    assert logger_of(trt) is first()
    other = SimpleNamespace(ILogger=type("ILogger", (), {"Severity": Severity}))
    assert logger_of(other) is not first()


def test_listeners_hear_what_is_said_while_they_listen_and_no_more(trt: Any) -> None:
    outer: list[str] = []
    inner: list[str] = []
    logger = logger_of(trt)
    with heard_by(trt, lambda level, message: outer.append(message)):
        logger.log(Severity.INFO, "a")
        with contextlib.suppress(ValueError), heard_by(trt, lambda level, message: inner.append(message)):
            logger.log(Severity.INFO, "b")
            raise ValueError
        logger.log(Severity.INFO, "c")
    logger.log(Severity.INFO, "d")
    assert (outer, inner) == (["a", "b", "c"], ["b"])
    assert logger.listeners == ()


def test_threads_come_and_go_without_losing_each_other(trt: Any) -> None:
    logger, stop = logger_of(trt), threading.Event()
    counts = [0, 0]

    def listen(i: int) -> None:
        while not stop.is_set():
            heard: list[str] = []
            with heard_by(trt, lambda level, message, heard=heard: heard.append(message)):  # type: ignore[misc]
                logger.log(Severity.INFO, f"{i}")
            assert f"{i}" in heard
            counts[i] += 1

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    stop.wait(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert min(counts) > 10
    assert logger.listeners == ()
