"""Two processes that write the same bundle, and one that reads it meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from diffpose_edge import folder_lock
from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.bundle_writing import exchange_contents, record_fitted, record_verification, save_bundle
from diffpose_edge.engines import engine_records, save_engine
from diffpose_edge.errors import BundleError, FolderBusy, OutputError
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.folder_lock import FolderLock

from .orin_engine import PLAN, record_of
from .test_bundle import EMPTY, NEW, OLD
from .test_killed_writes import FITTED, LOWERED
from .tiny_graphs import graph_about

ROUNDS = 40

# Replaces the bundle at argv[1] over and over, by two kinds that a reader can tell apart, until its input ends.
REPLACE_FOR_EVER = """
import select, sys
from diffpose_edge.bundle_writing import save_bundle
from tests.core.test_bundle import EMPTY, NEW, OLD
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for contents in (NEW, OLD):
        save_bundle(sys.argv[1], EMPTY, contents, replace_existing=True)
"""
HOLD = """
import sys
from diffpose_edge.folder_lock import FolderLock
with FolderLock(sys.argv[1]):
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "place").mkdir()
    return save_bundle(tmp_path / "place" / "bundle", EMPTY, OLD)


@contextmanager
def _another(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, str(path)]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        if process.poll() is None:
            process.stdin.close()
        process.wait(timeout=60)


def test_who_reads_meanwhile_meets_one_bundle_or_the_other_as_a_whole(bundle: Bundle) -> None:
    found = set()
    with _another(REPLACE_FOR_EVER, bundle.path) as process:
        for _ in range(ROUNDS):
            loaded = load_bundle(bundle.path)
            found.add(loaded.manifest.files["step.fp32.onnx"].sha256)
        until = time.monotonic() + 30
        while len(found) < 2 and time.monotonic() < until:
            found.add(load_bundle(bundle.path).manifest.files["step.fp32.onnx"].sha256)
        assert process.stdin is not None
        process.stdin.write("stop")
        process.stdin.flush()
    assert process.returncode == 0
    assert len(found) == 2
    assert os.listdir(bundle.path.parent) == ["bundle"]


def test_a_graph_that_was_replaced_since_it_was_loaded_is_said_to_be_so(bundle: Bundle) -> None:
    save_bundle(bundle.path, EMPTY, NEW, replace_existing=True)
    with pytest.raises(BundleError, match=r"was replaced by another process .* Run the command again"):
        bundle.read("step")


def test_who_has_the_lock_is_named_and_its_death_frees_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "WAIT_S", 0.0)
    with _another(HOLD, bundle.path) as process:
        with pytest.raises(FolderBusy, match=rf"is being written by process {process.pid}, which has not finished within 0 s; wait"):
            FolderLock(bundle.path, wait_s=0)
        assert load_bundle(bundle.path) == bundle, "reading needs no lock"
        process.kill()
        process.wait(timeout=60)
        with FolderLock(bundle.path, wait_s=5):
            pass
    assert sorted(os.listdir(bundle.path)) == ["context.fp32.onnx", "manifest.json", "step.fp32.onnx"], "a lock is no file"


def test_a_lock_waits_for_the_folder_that_has_taken_the_place_of_the_locked_one(bundle: Bundle) -> None:
    """Who waited must not alter the folder that was moved away."""
    first, second = FolderLock(bundle.path), threading.Thread(target=lambda: record_fitted(bundle, [FITTED]))
    second.start()
    with pytest.raises(FolderBusy, match="by this process itself"):
        FolderLock(bundle.path, wait_s=0)
    copy = save_bundle(bundle.path.with_name("copy"), EMPTY, OLD)
    bundle.path.rename(bundle.path.with_name("former"))
    copy.path.rename(bundle.path)
    first.close()
    first.close()
    second.join(timeout=30)
    assert load_bundle(bundle.path).manifest.fitted == (FITTED,)
    assert load_bundle(bundle.path.with_name("former")).manifest.fitted == ()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write into .*nothing was written"):
        FolderLock(tmp_path / "nowhere")


def test_what_two_record_at_once_is_all_kept(bundle: Bundle) -> None:
    """Each of them has loaded the bundle before the other wrote."""
    schedules = [replace(FITTED, timesteps=tuple(range(K, 0, -1)), rows=(FITTED.rows[0], *FITTED.rows[1:] * (K - 1))) for K in range(1, 9)]
    writers = [threading.Thread(target=record_fitted, args=(bundle, [schedule])) for schedule in schedules]
    writers += [threading.Thread(target=record_verification, args=(bundle, f"look {i}", {"mm": i})) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    now = load_bundle(bundle.path).manifest
    assert [len(schedule.timesteps) for schedule in now.fitted] == list(range(1, 9))
    assert now.verification == {f"look {i}": {"mm": i} for i in range(4)}


def test_new_precisions_keep_what_was_recorded_and_built_since_they_were_begun(bundle: Bundle) -> None:
    record_fitted(bundle, [FITTED])
    save_engine(bundle, record_of(bundle), PLAN)
    (bundle.path / "engines" / ".leftover").mkdir()
    (bundle.path / "timings").symlink_to("../elsewhere")
    now = exchange_contents(bundle, LOWERED, lambda manifest: manifest)
    assert now.manifest.fitted == (FITTED,)
    assert now.read("step", "int8") == graph_about(b"lower step")
    assert [path.read_bytes() for path, _ in engine_records(now)] == [PLAN]
    assert os.readlink(bundle.path / "timings") == "../elsewhere"
    assert not (bundle.path / "engines" / ".leftover").exists()


def _recorded_fitted(bundle: Bundle) -> Bundle:
    return record_fitted(bundle, [FittedSchedule((1,), ((1.0, 1.0, 0.0),))])


@pytest.mark.parametrize(
    "write",
    [
        _recorded_fitted,
        lambda bundle: record_verification(bundle, "verify", {"mm": 1}),
        lambda bundle: exchange_contents(bundle, LOWERED, lambda manifest: manifest),
    ],
)
def test_what_was_found_of_another_bundle_is_not_written_into_this_one(bundle: Bundle, write: object) -> None:
    assert callable(write)
    newer = save_bundle(bundle.path, EMPTY, NEW, replace_existing=True)
    with pytest.raises(BundleError, match="was replaced by another process while this one worked"):
        write(bundle)
    assert load_bundle(bundle.path) == newer


def test_a_bundle_whose_manifest_is_damaged_can_be_replaced_unless_something_else_lies_there(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_bytes(b"\0" * 100)
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle; it is left alone"):
        save_bundle(bundle.path, EMPTY, NEW, replace_existing=True)
    (bundle.path / "notes.txt").unlink()
    assert save_bundle(bundle.path, EMPTY, NEW, replace_existing=True).read("step") == graph_about(b"new step")
