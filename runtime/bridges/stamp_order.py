"""Stamps that must go forward, and when to believe that the time line itself began anew."""

from __future__ import annotations

# This many stamps in a row that lie before the last one taken, but in order among themselves, are no late messages: a recording was
# started again, a simulation reset, or one stamp from the far future came between.
ANEW_AFTER = 10


class StampOrder:
    """The order of the stamps of one source.

    A stamp at or before the last one taken is late or a duplicate. After ``anew_after`` of them in a row, each later than the one
    before, the last of them begins a new time line. Without that, one wrong stamp, or a peer started again with an older clock, would
    silence the source for ever.
    """

    def __init__(self, anew_after: int = ANEW_AFTER):
        self.anew_after = anew_after
        self.last: int | None = None
        self._late: list[int] = []

    def takes(self, stamp_ns: int) -> tuple[bool, bool]:
        """Return whether to take a message of this stamp, and whether it begins the time line anew."""
        if self.last is None or stamp_ns > self.last:
            self.last, self._late = stamp_ns, []
            return True, False
        if self._late and stamp_ns <= self._late[-1]:
            self._late = []
        self._late.append(stamp_ns)
        if len(self._late) < self.anew_after:
            return False, False
        self.last, self._late = stamp_ns, []
        return True, True
