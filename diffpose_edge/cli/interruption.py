"""What SIGINT (Ctrl-C) and SIGTERM do to a command: it stops where it is, takes back what it had begun, and exits with 128 + the number.

Services have handlers of their own (``serve-dds``, the ROS 2 node): they finish what they are at, and exit with 0.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Some programs send theirs twice at once: timeout(1) to the command and to its group. Whoever asks again later does not want to wait.
ONCE_S = 1.0


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Let the first of these signals raise KeyboardInterrupt, so that every ``with`` is left, and exit with 130 or 143 then.

    Another one within a second counts as the same; a later one ends the process at once. A signal that was ignored when the process was
    started (``nohup``, a shell's background) stays ignored. Outside of the main thread, where Python hears no signal, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, float]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append((number, monotonic()))
            raise KeyboardInterrupt
        if monotonic() - came[0][1] > ONCE_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        _exit(came[0][0] if came else signal.SIGINT)
    except SystemExit as end:
        # Whatever was made of the interruption on the way: a command that came to its end all the same has succeeded.
        if not came or end.code in (0, None):
            raise
        _exit(came[0][0])
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _exit(number: int) -> NoReturn:
    print(f"stopped by {signal.Signals(number).name}: nothing is left half-written", file=sys.stderr)
    sys.exit(128 + number)
