"""The command line, as a user runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffpose_edge.cli import main

Run = Callable[..., SimpleNamespace]
Mistake = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; check its exit status; return what it printed."""

    def run(*arguments: object, status: int = 0) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["diffpose-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert stop.value.code == status, captured.err + captured.out
        return SimpleNamespace(out=captured.out, err=captured.err)

    return run


@pytest.fixture
def mistake(cli: Run, tmp_path: Path) -> Mistake:
    """Run the command line; check that it fails as a mistake should and leaves tmp_path as it was; return its message."""

    def run(*arguments: object) -> str:
        before = contents(tmp_path)
        err: str = cli(*arguments, status=2).err
        assert contents(tmp_path) == before
        assert "Traceback" not in err
        assert err.count("error: ") == 1
        return " ".join(err[err.index("error: ") :].split())

    return run
