"""Writes that are killed, or refused by the disk, before every one of their file-system calls."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from diffpose_edge import exchange
from diffpose_edge.atomic import atomic_directory, atomic_file
from diffpose_edge.benchmarks.killable import Killable
from diffpose_edge.bundle import load_bundle, sha256_of
from diffpose_edge.bundle_writing import exchange_contents, record_fitted, save_bundle
from diffpose_edge.engines import engine_records, save_engine
from diffpose_edge.errors import OutputError
from diffpose_edge.fitted import FittedSchedule

from .orin_engine import PLAN, record_of
from .test_bundle import EMPTY, NEW, OLD, _snapshot
from .tiny_graphs import graph_about

FITTED = FittedSchedule((5, 0), ((0.5, 0.5, 0.0), (1.0, 0.5, 0.5)))
LOWERED = {"step.int8.onnx": ("step", "int8", graph_about(b"lower step"))}


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A folder with a file, and a bundle that has an engine."""
    folder = tmp_path / "before"
    folder.mkdir()
    bundle = save_bundle(folder / "bundle", EMPTY, OLD)
    save_engine(bundle, record_of(bundle), PLAN)
    (folder / "file").write_text("old")
    return Path(shutil.copytree(folder, tmp_path / "live"))


def _begin(live: Path) -> None:
    shutil.rmtree(live)
    shutil.copytree(live.with_name("before"), live)


def _another_engine(folder: Path) -> None:
    bundle = load_bundle(folder / "bundle")
    save_engine(bundle, replace(record_of(bundle), sha256=sha256_of(PLAN[::-1])), PLAN[::-1], "what it is made of")


def _a_file(folder: Path) -> None:
    with atomic_file(folder / "file") as temporary:
        temporary.write_text("new")


def _a_calibration(folder: Path) -> None:
    exchange_contents(load_bundle(folder / "bundle"), LOWERED, lambda now: replace(now, provenance={"precision": "lower"}))


WRITES: dict[str, Callable[[Path], object]] = {
    "file": _a_file,
    "bundle": lambda folder: save_bundle(folder / "bundle", EMPTY, NEW, replace_existing=True),
    "calibration": _a_calibration,
    "schedule": lambda folder: record_fitted(load_bundle(folder / "bundle"), [FITTED]),
    "engine": _another_engine,
}


def _done(action: Callable[[Path], object], folder: Path) -> int:
    try:
        action(folder)
    except OutputError as err:
        print(err)
        return 2
    return 0


def _whole(folder: Path) -> str:
    """What is there, read as everybody reads it; raises where it is not whole."""
    bundle = load_bundle(folder / "bundle")
    engines = []
    for path, record in engine_records(bundle):
        assert sha256_of(path.read_bytes()) == record.sha256
        engines.append(record.sha256)
    return json.dumps([bundle.manifest.to_json(), engines, (folder / "file").read_text()])


SLOW = pytest.param("calibration", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "in_one_step"),
    [
        *((name, True) for name in ("file", "schedule", "bundle", "engine")),
        ("bundle", False),
        ("engine", False),
        pytest.param("calibration", True, marks=pytest.mark.slow),
        pytest.param("calibration", False, marks=pytest.mark.slow),
    ],
)
def test_a_write_that_is_killed_anywhere_leaves_the_old_or_the_new_and_the_next_one_tidies_up(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, in_one_step: bool
) -> None:
    if not in_one_step:
        monkeypatch.setattr(exchange, "_renameat2", lambda one, other, flags: False)
    old, seen = _whole(live), set()
    with Killable(lambda: _done(WRITES[name], live), live, tmp_path / "told") as write:
        first = write.go_on()
        new, left = _whole(live), set(_snapshot(live))
        assert first.status == 0
        assert new != old
        for call in range(1, first.calls + 1):
            _begin(live)
            assert write.go_on("killed", call).status == -9
            seen.add(_whole(live))
            assert write.go_on().status == 0
            assert (_whole(live), set(_snapshot(live))) == (new, left), f"after a kill before call {call} of {first.calls}"
    assert seen == {old, new}


@pytest.mark.parametrize("name", ["file", "schedule", "bundle", "engine", SLOW])
def test_a_write_that_the_disk_refuses_anywhere_says_so_and_leaves_the_old(live: Path, tmp_path: Path, name: str) -> None:
    old = _whole(live)
    with Killable(lambda: _done(WRITES[name], live), live, tmp_path / "told") as write:
        calls, new, left = write.go_on().calls, _whole(live), set(_snapshot(live))
        for call in range(1, calls + 1):
            _begin(live)
            ended = write.go_on("input/output error", call)
            found = _whole(live)
            # From the last rename on the new one is there; what then fails is flushing it, which is said, or removing the old one.
            assert ended.status == 2 or found == new, ended.said
            assert ("nothing was written" in ended.said) == (found == old)
            if found == new and ended.status == 2:
                assert "was written, but its disk reports an error" in ended.said
            assert write.go_on().status == 0
            assert (_whole(live), set(_snapshot(live))) == (new, left)


def test_a_sweep_finds_a_writer_that_writes_in_place(tmp_path: Path) -> None:
    """A control: without a temporary a kill leaves half a file."""
    live = tmp_path / "live"
    live.mkdir()

    def in_place() -> int:
        with open(live / "file", "w") as file:
            file.write("new")
        os.chmod(live / "file", 0o600)
        return 0

    with Killable(in_place, live, tmp_path / "told") as write:
        calls = write.go_on().calls
        found = set()
        for call in range(1, calls + 1):
            (live / "file").write_text("old")
            write.go_on("killed", call)
            found.add((live / "file").read_text())
    assert calls == 2
    assert found == {"old", "new"}


def test_what_is_still_being_written_is_nobody_elses_to_remove(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "one") as one, atomic_directory(tmp_path / "two") as two:
        (two / "graph").write_text("half")
        with atomic_file(tmp_path / "three") as three:
            three.write_text("whole")
        assert one.exists()
        assert (two / "graph").exists()
        one.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == ["one", "three", "two"]


@pytest.mark.parametrize("name", [".target.abcdefgh.partial", "target.diffpose-edge-partial", ".target.abcdefgh.diffpose-edge-partial.x/y"])
def test_what_only_looks_like_a_temporary_stays(tmp_path: Path, name: str) -> None:
    other = tmp_path / name.replace("/", "_")
    other.write_text("mine")
    if name.endswith("y"):
        other.unlink()
        other.symlink_to("nowhere")
    with atomic_file(tmp_path / "target") as temporary:
        temporary.write_text("new")
    assert len(os.listdir(tmp_path)) == 2


def test_a_reader_puts_back_what_a_killed_process_had_moved_aside(live: Path) -> None:
    os.rename(live / "bundle", live / f".bundle.00000000.{exchange.REPLACED}")
    assert load_bundle(live / "bundle").read("step") == graph_about(b"old step")
    # One that is older than what is there now is removed by the next write.
    save_bundle(live / f".bundle.00000001.{exchange.REPLACED}", EMPTY, OLD)
    assert save_bundle(live / "bundle", EMPTY, NEW, replace_existing=True).read("step") == graph_about(b"new step")
    assert sorted(os.listdir(live)) == ["bundle", "file"]
