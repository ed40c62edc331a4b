"""Log records that machines read, too, and that do not come with every frame.

The library logs through :mod:`logging` under ``diffpose_edge.*`` and sets up nothing; what listens is the program's. A record of ours
carries its ``event``, a name that stays the same, and its numbers as attributes (``extra``), where a formatter finds them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

Field = str | int | float | bool
# Long enough that a fault in every frame is a line now and then, short enough that whoever looks at the log sees it within a minute.
PERIOD_S = 60.0
# What is kept back is kept for each kind: kinds are the code's own words, and never as many as this.
MOST_KINDS = 256


# Who wants to know of faults: nobody, unless the program has opened crash reports.
fault_listeners: list[Callable[[BaseException, str], object]] = []


def tell_fault(err: BaseException, where: str) -> None:
    """Tell whoever listens of an exception that ends a thread; ``where``: our own word for the place. Raises nothing."""
    for listener in tuple(fault_listeners):
        listener(err, where)


class Seldom:
    """Tells of what may come with every frame: each kind once in ``period_s`` seconds, with how many were kept back.

    Any thread may call it. ``close`` tells of what is still kept back. ``clock``: monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, period_s: float = PERIOD_S, clock: Callable[[], float] = monotonic):
        self._logger, self._period, self._clock = logger, period_s, clock
        self._lock = threading.Lock()
        # By event and kind: when it is told of again, how many were kept back, and at which level.
        self._kept: dict[tuple[str, str], tuple[float, int, int]] = {}

    def tell(self, level: int, event: str, message: str, *arguments: object, kind: str = "", **fields: Field) -> bool:
        """Log a message, with %-arguments, or keep it back; tell which. ``kind``: tells apart what shares an event."""
        now = self._clock()
        with self._lock:
            key = event, kind if len(self._kept) < MOST_KINDS else ""
            due, kept, _ = self._kept.get(key, (now, 0, level))
            told = now >= due
            self._kept[key] = (now + self._period, 0, level) if told else (due, kept + 1, level)
        if told:
            # The text is ours; what it is filled with is not, and stays apart from it until a handler joins them.
            more = " (%d more since the last time)" if kept else ""
            arguments = (*arguments, kept) if kept else arguments
            self._logger.log(level, message + more, *arguments, extra=_extra(event, kind, fields | {"suppressed": kept}))
        return told

    def close(self) -> None:
        """Tell of what was kept back and not told of yet; a second call does nothing."""
        with self._lock:
            left, self._kept = self._kept, {}
        for (event, kind), (_, kept, level) in left.items():
            if kept:
                self._logger.log(level, "%s: %d more since the last time", event, kept, extra=_extra(event, kind, {"suppressed": kept}))


def _extra(event: str, kind: str, fields: dict[str, Field]) -> dict[str, Field]:
    return {"event": event, **({"kind": kind} if kind else {}), **fields}
