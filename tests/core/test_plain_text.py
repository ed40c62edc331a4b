"""What strangers wrote is shown and does nothing: no message leads a terminal, and none fills it."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.cli.terminal import PlainConsole
from diffpose_edge.errors import BundleError, DiffPoseEdgeError, KeypointError
from diffpose_edge.keypoints import load_keypoints
from diffpose_edge.manifest import manifest_from_json
from diffpose_edge.plain_text import MOST_CHARACTERS, fit, plain

# Clears the screen, sets the title, turns the direction of writing, ends a line for some.
HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202eabc\u2066 \u2028 \r \x00 \x7f \ud800"
LEADING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_what_leads_a_terminal_is_written_out_and_all_else_stays() -> None:
    assert plain("\x1b[31mé 日本\n\tü") == "\\x1b[31mé 日本\n\tü"
    assert LEADING.search(HOSTILE)
    assert not LEADING.search(plain(HOSTILE))
    assert not LEADING.search(plain(HOSTILE, "?"))
    assert len(plain(HOSTILE, "?")) == len(HOSTILE)


def test_a_long_text_loses_its_middle() -> None:
    text = fit("a" * 10**6 + "end")
    assert len(text) < MOST_CHARACTERS
    assert text.endswith("end")
    assert "characters left out" in text
    assert fit("a" * MOST_CHARACTERS) == "a" * MOST_CHARACTERS


def test_every_error_of_ours_is_plain_and_short_and_survives_a_process() -> None:
    for kind in (DiffPoseEdgeError, BundleError):
        err = kind(f"{HOSTILE} {'x' * 10**6}")
        assert not LEADING.search(str(err))
        assert len(str(err)) < 2 * MOST_CHARACTERS
        assert str(pickle.loads(pickle.dumps(err))) == str(err)
    assert str(DiffPoseEdgeError()) == ""


def test_names_in_files_come_out_plain(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"\x1b[2Jname": np.ones(1)})
    with pytest.raises(KeypointError, match=r"it has: \\x1b\[2Jname"):
        load_keypoints(tmp_path / "a.npz")
    with pytest.raises(BundleError) as refused:
        manifest_from_json('{"format": "%s"}' % ("\\u001b]0;x\\u0007" * 10_000))
    assert not LEADING.search(str(refused.value))
    assert len(str(refused.value)) < 2 * MOST_CHARACTERS


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_prints_colours_of_ours_and_none_of_a_files(terminal: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    written = io.StringIO()
    console = PlainConsole(file=written, force_terminal=terminal, color_system="standard" if terminal else None, width=200)
    table = Table(title=HOSTILE)
    table.add_row(Text(HOSTILE), "[red]ours[/]")
    console.print(table)
    console.print(HOSTILE, markup=False, soft_wrap=True)
    shown = written.getvalue()
    assert ("\x1b[31mours" in shown) == terminal
    own = re.sub("\x1b\\[[0-9;]*m", "", shown)  # colours, which only the console itself writes
    assert not LEADING.search(own)
    assert "\x1b[2J" not in shown
