"""JSON from strangers: read by the standard library, after a look at how much memory it would take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

# What CPython takes, in bytes, for an empty list or object with its place in another, for a number with its place in a list, and for
# half of an empty text: by sys.getsizeof in CPython 3.11, and the 16 bytes with which the garbage collector finds containers.
_CONTAINER, _NUMBER, _HALF_TEXT = 88, 32, 30
# Ten minutes of three people with 136 keypoints each, at 30 frames a second, take 2.2 GB by this reckoning.
MOST_MEMORY = 3 << 30


def json_of(content: bytes | str, *, most_memory: int = MOST_MEMORY, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Return the document in UTF-8 or in a text; ``parse_constant`` is called for NaN and the infinities, which JSON has no word for.

    Raises ValueError (json.JSONDecodeError, UnicodeDecodeError, or itself) for what is not JSON, is nested too deeply, has a number of
    thousands of digits, or would take more than ``most_memory`` bytes in memory: three characters make an empty list of 80 bytes.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    memory = _CONTAINER * (text.count("[") + text.count("{")) + _NUMBER * text.count(",") + _HALF_TEXT * text.count('"')
    if memory > most_memory:
        raise ValueError(f"it would take about {memory >> 20} MB of memory, and up to {most_memory >> 20} MB are given")
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
