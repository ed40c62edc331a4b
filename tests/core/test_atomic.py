"""Atomic writes: whole or not at all, whatever the operating system refuses; the errors say what to do."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from diffpose_edge.atomic import atomic_directory, atomic_file
from diffpose_edge.errors import OutputError

NOBODY = 65534

# Run in a process of its own: writes 1 MiB to argv[1]; prints the error and what is left in the folder.
WRITE_A_MEBIBYTE = """
import os, resource, signal, sys
from pathlib import Path
from diffpose_edge.atomic import atomic_directory, atomic_file
from diffpose_edge.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
target = Path(sys.argv[1])
try:
    if sys.argv[2] == "file":
        with atomic_file(target) as temporary:
            temporary.write_bytes(bytes(2**20))
    else:
        with atomic_directory(target, replace=True) as temporary:
            (temporary / "graph").write_bytes(bytes(2**20))
except OutputError as err:
    print(err)
print(sorted(os.listdir(target.parent)), target.read_bytes() if target.is_file() else (target / "graph").read_bytes())
"""


def _target(folder: Path, kind: str) -> Path:
    """A target that exists already, with the content b"old"."""
    target = folder / "target"
    if kind == "file":
        target.write_bytes(b"old")
    else:
        target.mkdir()
        (target / "graph").write_bytes(b"old")
    return target


def _write_a_mebibyte(*arguments: str, before: str = "true") -> str:
    """Run the script in a shell of its own, after the command ``before``."""
    script = ["sh", "-c", f'{before} && exec "$0" "$@"', sys.executable, "-c", WRITE_A_MEBIBYTE, *arguments]
    command = script if before == "true" else ["unshare", "-m", *script]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _fail_midway(writing: AbstractContextManager[Path], error: type[BaseException]) -> None:
    with writing as temporary:
        (temporary / "graph" if temporary.is_dir() else temporary).write_bytes(b"half")
        raise error("midway")


def _target_appears_meanwhile(folder: Path) -> None:
    with atomic_directory(folder / "target") as temporary:
        (temporary / "graph").write_bytes(b"new")
        _target(folder, "folder")


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


@contextmanager
def _unprivileged() -> Iterator[None]:
    """Give up root's right to write everywhere, for the duration."""
    former = os.geteuid()
    os.seteuid(former or NOBODY)
    try:
        yield
    finally:
        os.seteuid(former)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that nobody may write to, below folders that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="read-only-"))
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old", encoding="utf-8")
    with atomic_file(str(target)) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "old"
        # On the same file system, and with the same suffix, which some writers go by.
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".json")
    assert target.read_text(encoding="utf-8") == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = _target(tmp_path, "folder")
    with atomic_directory(str(target), replace=True) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "new").write_bytes(b"new")
        assert os.listdir(target) == ["graph"]
    assert (target / "sub" / "new").read_bytes() == b"new"
    assert os.listdir(target) == ["sub"]
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, RuntimeError])
def test_after_any_exception_the_target_is_the_old_one_and_no_temporary_is_left(tmp_path: Path, error: type[BaseException]) -> None:
    for kind, write in (("file", atomic_file), ("folder", lambda t: atomic_directory(t, replace=True))):
        folder = tmp_path / kind
        folder.mkdir()
        target = _target(folder, kind)
        with pytest.raises(error):
            _fail_midway(write(target), error)
        assert (target if kind == "file" else target / "graph").read_bytes() == b"old"
        assert os.listdir(folder) == ["target"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    with _umask(mask):
        with atomic_file(tmp_path / "file") as file:
            file.write_bytes(b"x")
        with atomic_directory(tmp_path / "folder") as folder:
            (folder / "graph").write_bytes(b"x")
        assert os.umask(mask) == mask
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
    assert stat.S_IMODE((tmp_path / "folder" / "graph").stat().st_mode) == 0o666 & ~mask


def test_a_missing_parent_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    for write in (atomic_file, atomic_directory):
        with pytest.raises(OutputError, match=r"cannot write .*target: its parent folder does not exist; create it first; nothing was"):
            write(tmp_path / "nowhere" / "target").__enter__()
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_the_parent_folder_is_said_to_be_no_folder(tmp_path: Path) -> None:
    (tmp_path / "parent").write_text("", encoding="utf-8")
    for write in (atomic_file, atomic_directory):
        with pytest.raises(OutputError, match="a part of its path is not a folder"):
            write(tmp_path / "parent" / "target").__enter__()


def test_a_folder_in_place_of_the_file_is_said_to_stand_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a folder stands there; name a file"):
        atomic_file(_target(tmp_path, "folder")).__enter__()
    assert (tmp_path / "target" / "graph").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_folder_replaces_nothing_unless_asked(tmp_path: Path, kind: str) -> None:
    if kind == "dangling link":
        (tmp_path / "target").symlink_to("nowhere")
    else:
        _target(tmp_path, kind)
    with pytest.raises(OutputError, match="exists already"):
        atomic_directory(tmp_path / "target").__enter__()
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_that_appeared_in_the_meantime_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        _target_appears_meanwhile(tmp_path)
    assert (tmp_path / "target" / "graph").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_replacing_what_is_no_folder_happens_whole_or_not_at_all(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "place" / "target"
    target.parent.mkdir()
    _target(tmp_path, "folder")
    if kind == "file":
        target.write_bytes(b"old")
    else:
        target.symlink_to(tmp_path / "target")
    try:
        with atomic_directory(target, replace=True) as temporary:
            (temporary / "graph").write_bytes(b"new")
    except OutputError:
        assert (target if kind == "file" else target / "graph").read_bytes() == b"old"
    else:
        assert (target / "graph").read_bytes() == b"new"
    assert os.listdir(target.parent) == ["target"]


def test_a_read_only_folder_is_said_to_deny_permission(read_only: Path) -> None:
    with _unprivileged():
        for write in (atomic_file, atomic_directory):
            with pytest.raises(OutputError, match="permission denied; choose a place that you may write to; nothing was written"):
                write(read_only / "target").__enter__()
    assert os.listdir(read_only) == []


def test_the_full_disk_that_pytorch_reports_in_its_own_way_is_understood(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="disk is full"), atomic_file(tmp_path / "target"):
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file data/0: file write failed")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_size_limit_is_named_and_nothing_changes(tmp_path: Path, kind: str) -> None:
    printed = _write_a_mebibyte(str(_target(tmp_path, kind)), kind, "65536")
    assert "exceed the size limit set for this process (see ulimit -f); nothing was written" in printed
    assert printed.endswith("['target'] b'old'\n")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_is_named_and_nothing_changes(tmp_path: Path, kind: str) -> None:
    mount = f"mount -t tmpfs -o size=256k tmpfs '{tmp_path}'"
    try:
        subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.skip(f"needs the right to mount a small file system: {err}")
    target = tmp_path / "target"
    old = f"printf old > '{target}'" if kind == "file" else f"mkdir '{target}' && printf old > '{target}/graph'"
    printed = _write_a_mebibyte(str(target), kind, "0", before=f"{mount} && {old}")
    assert "the disk is full; free some space or choose another place; nothing was written" in printed
    assert printed.endswith("['target'] b'old'\n")
