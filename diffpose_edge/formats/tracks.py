"""Names of tracks in formats that know whole numbers only."""

from __future__ import annotations

from pathlib import Path

from diffpose_edge.errors import OutputError


def whole_track(track: str, path: Path) -> int:
    """Return a track's name as the whole number that the format wants. Raises OutputError."""
    if not (track.isascii() and track.isdigit() and len(track) <= 18):
        raise OutputError(f"cannot write {path}: the format calls people by whole numbers, and one here is called {track!r}")
    return int(track)
