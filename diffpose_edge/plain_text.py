"""Text from strangers, made fit to be shown: nothing in it leads the terminal, and there is never too much of it.

A name in a file can hold the sequences that clear a screen, set its title or turn the direction of writing: what is shown of it is not
what is there, and some terminals can be made to answer.
"""

from __future__ import annotations

import re

# Longer messages lose their middle: enough for every shape of two graphs.
MOST_CHARACTERS = 8_000

# The control characters of ASCII and Latin-1 but for tab and line feed, separators that some take for the end of a line, marks that
# turn the direction of writing, and halves of characters, which no encoding can write.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str, mark: str | None = None) -> str:
    """Return ``text`` with each character that a terminal would obey written as its escape sequence, or replaced by ``mark``."""
    return _UNFIT.sub(_escaped if mark is None else mark, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def fit(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return ``text`` with all that cannot be printed written as its escape sequence, but for line feeds, and without its middle
    where it has more than ``most`` characters.
    """
    text = _short(text, most)  # first: it may be megabytes
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
    return _short(text, most)


def _short(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    # What is to be done stands at the end.
    head, tail = most // 2, most // 3
    return f"{text[:head]} … ({len(text) - head - tail} characters left out) … {text[-tail:]}"
