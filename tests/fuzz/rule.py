"""What every execution has to keep to: success, or an error that a user can read and act on, soon and within memory.

Anything else is a finding: another exception, an error whose text does not help, more than a second, more memory than the bound.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.plain_text import MOST_CHARACTERS

# Of the process's own time, so that other programs on the machine do not count; inputs are of up to 64 KB.
MOST_SECONDS = 1.0
MOST_GROWTH_BYTES = 256 << 20
# Python's and numpy's own words for a mistake in a program: a user cannot mend that.
_NOT_FOR_USERS = re.compile(
    r"object is not (subscriptable|iterable|callable)|has no attribute|(un)?expected keyword argument|positional argument|unhashable type|"
    r"(list|tuple|string) indices must be|not supported between instances|__[a-z]+__|object at 0x|Traceback|cannot unpack|"
    r"not enough values to unpack|too many values to unpack|index out of range|is out of bounds for axis|could not be broadcast|"
    r"unsupported operand|inhomogeneous shape|invalid literal for int|substring not found|argument of type"
)
# A message says what was expected, what is wrong, or what to do; one without any of these words only says that something happened.
_HELPS = re.compile(
    r"(?i)\b(expected|refused|cannot|can't|lacks?|has no|have no|is no|no \w+|none|must|needs?|not|damaged|missing|instead|already|twice|"
    r"too|than|unknown|wrong|empty|nobody|says|differs?|reads|up to|cut off|without|outside|beyond|neither|altered|is it|are they|are the|"
    r"again|give|remove|choose|check|only|update|name it|use|leave|move|subtract|calibrate|rectify|write|split|fetch|export|build|install|"
    r"convert|set|wait|make a|begin|open another|another one|verify|take|name the one)\b"
)


@dataclass(frozen=True)
class Finding:
    """What an execution did wrong: ``kind`` is crash, unclear, slow or memory; ``where`` the innermost line of this project."""

    kind: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}: {self.what}"


@dataclass(frozen=True)
class Outcome:
    """How an execution ended: whether the input was ``refused``, in how many ``seconds`` of processor time, and what was wrong with it."""

    refused: bool
    seconds: float
    finding: Finding | None


def outcome_of(run: Callable[[bytes], object], data: bytes, allowed: tuple[type[Exception], ...] = ()) -> Outcome:
    """Run a target on an input and judge it. ``allowed``: what it may raise besides DiffPoseEdgeError."""
    refused, finding, before = False, None, _peak_bytes(forget=True)
    began = time.process_time()
    try:
        run(data)
    except allowed:
        refused = True
    except DiffPoseEdgeError as err:
        refused, why = True, unclear(str(err))
        if why is not None:
            finding = Finding("unclear", f"{type(err).__name__} {why}: {str(err)[:300]!r}", _where(err))
    except Exception as err:  # the very thing that is looked for
        finding = Finding("crash", f"{type(err).__name__}: {str(err)[:300]}", _where(err))
    seconds = time.process_time() - began
    grown = _peak_bytes() - before
    if finding is None and grown > MOST_GROWTH_BYTES:
        finding = Finding("memory", f"{grown >> 20} MB for an input of {len(data)} bytes", "")
    if finding is None and seconds > MOST_SECONDS:
        # A first call may import; what is slow is slow again.
        began = time.process_time()
        with contextlib.suppress(Exception):
            run(data)
        seconds = min(seconds, time.process_time() - began)
        if seconds > MOST_SECONDS:
            finding = Finding("slow", f"{seconds:.1f} s for an input of {len(data)} bytes", "")
    return Outcome(refused, seconds, finding)


def all_of(*questions: Callable[[], object]) -> None:
    """Ask everything, whichever of it is refused; then raise a refusal, one whose text does not help before the others."""
    refusals: list[DiffPoseEdgeError] = []
    for question in questions:
        try:
            question()
        except DiffPoseEdgeError as err:  # noqa: PERF203 - what follows is asked all the same
            refusals.append(err)
    if refusals:
        raise max(refusals, key=lambda err: unclear(str(err)) is not None)


def unclear(message: str) -> str | None:
    """Return why a message does not help a user, None when it does."""
    if not message.strip():
        return "says nothing"
    if len(message) > MOST_CHARACTERS:
        return f"is {len(message)} characters long"
    if not all(letter.isprintable() or letter == "\n" for letter in message):
        return "holds what cannot be printed"
    if (found := _NOT_FOR_USERS.search(message)) is not None:
        return f"has a program's own words ({found[0]})"
    if _HELPS.search(message) is None:
        return "says neither what was expected nor what to do"
    return None


def _peak_bytes(*, forget: bool = False) -> int:
    """Return the largest memory this process has had; after ``forget``, since then. Elsewhere than on Linux it cannot forget."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if forget:
        # Otherwise what an earlier input took hides what this one takes (proc_pid_clear_refs(5)).
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024


def _where(err: BaseException) -> str:
    """Return file, line and function of the innermost frame in this project, by which findings are told apart."""
    root = Path(__file__).resolve().parents[2]
    ours = [
        f
        for f in traceback.extract_tb(err.__traceback__)
        if (p := Path(f.filename)).is_relative_to(root) and "site-packages" not in p.parts
    ]
    inner = [frame for frame in ours if "fuzz" not in Path(frame.filename).parts] or ours
    return f"{Path(inner[-1].filename).relative_to(root)}:{inner[-1].lineno} {inner[-1].name}" if inner else "?"
