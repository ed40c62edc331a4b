"""What the commands share: parsing timesteps, progress bars and stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from diffpose_edge.errors import KeypointError, TimestepError
from diffpose_edge.plain_text import plain


class PlainConsole(Console):
    """A console on which text cannot lead the terminal: names out of files and messages are printed, and whoever made them chose them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text, "\N{REPLACEMENT CHARACTER}"), segment.style)


out = PlainConsole(highlight=False)
if not out.is_terminal:
    # A file or a pipe has no width: tables are written whole instead of being squeezed into 80 columns.
    out.width = 140
# Progress goes to standard error, so that standard output can be piped.
err = PlainConsole(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a line of plain text: paths in it are not taken for markup, and it is not broken at the window's width."""
    out.print(text, markup=False, soft_wrap=True)


class ToTerminal(logging.Handler):
    """Shows log records as lines of text, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        err.print(text, markup=False, soft_wrap=True)


@contextmanager
def telling() -> Iterator[None]:
    """Show what the runtime logs meanwhile from INFO on, unless another level was asked for: why it runs on the CPU, say."""
    logger = logging.getLogger("diffpose_edge")
    level = logger.level
    logger.setLevel(min(level or logging.WARNING, logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)


def parsed_timesteps(text: str | None) -> tuple[int, ...] | None:
    """Read "12,0" as (12, 0); None stays None. Raises TimestepError."""
    if text is None:
        return None
    try:
        # int() also takes 1_2 for 12: not what anybody means here.
        return tuple(int(part.replace("_", "x")) for part in text.split(","))
    except ValueError:
        raise TimestepError(f"expected timesteps as whole numbers separated by commas, such as 12,0; got {text!r}") from None


def parsed_size(text: str | None) -> tuple[int, int] | None:
    """Read "640x480" as (640, 480), the width and height of an image in pixels; None stays None. Raises KeypointError."""
    if text is None:
        return None
    w, _, h = text.lower().partition("x")
    plain = w.isascii() and w.isdigit() and h.isascii() and h.isdigit() and len(text) < 20
    if not (plain and int(w) and int(h)):
        raise KeypointError(f"expected the image's size as WIDTHxHEIGHT in pixels, such as 640x480; got {text!r}")
    return int(w), int(h)


@contextmanager
def stages(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar that moves on with each stage named; yields the function to name one with."""
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), console=err
    ) as bar:
        task = bar.add_task(title, total=total)
        begun = False

        def stage(name: str) -> None:
            nonlocal begun
            bar.update(task, description=name, advance=1 if begun else 0)
            begun = True

        yield stage
        bar.update(task, completed=total, description=title)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar over ``total`` things; yields the function that says how many more are done."""
    with Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=err) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
