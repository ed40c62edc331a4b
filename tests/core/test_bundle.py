"""A bundle on disk: loaded only if unaltered and within its own folder, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge import exchange
from diffpose_edge.bundle import MANIFEST, load_bundle, sha256_of
from diffpose_edge.bundle_writing import save_bundle
from diffpose_edge.config import BatchShape, GraphNetworkConfig
from diffpose_edge.errors import BundleError, OutputError
from diffpose_edge.manifest import Manifest
from diffpose_edge.schedule import RELEASED_TIMESTEPS, released_alpha_bar

from .tiny_graphs import graph_about

NAMES = ("context.fp32.onnx", "step.fp32.onnx")
OLD = {NAMES[0]: ("context", "fp32", graph_about(b"old context")), NAMES[1]: ("step", "fp32", graph_about(b"old step"))}
NEW = {NAMES[0]: ("context", "fp32", graph_about(b"new context")), NAMES[1]: ("step", "fp32", graph_about(b"new step"))}
SIZE = GraphNetworkConfig(32, 2, 4)
EMPTY = Manifest(SIZE, SIZE, BatchShape(), tuple(map(float, released_alpha_bar())), RELEASED_TIMESTEPS, {})


@pytest.fixture
def real(golden_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a real bundle that a test may spoil."""
    return Path(shutil.copytree(golden_bundle, tmp_path / "real"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A small bundle of made-up graphs, alone in its folder."""
    (tmp_path / "place").mkdir()
    return save_bundle(tmp_path / "place" / "bundle", EMPTY, OLD).path


def _snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder, temporaries included."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else "folder" for name, p in files.items()}


def test_a_saved_bundle_loads_equal_and_its_alpha_bar_is_exact(tmp_path: Path) -> None:
    saved = save_bundle(tmp_path / "b", EMPTY, OLD)
    loaded = load_bundle(tmp_path / "b")
    assert loaded == saved
    assert loaded.manifest.alpha_bar_table.tobytes() == released_alpha_bar().tobytes()
    assert {role: loaded.read(role) for role in ("context", "step")} == {
        "context": graph_about(b"old context"),
        "step": graph_about(b"old step"),
    }
    entry = loaded.manifest.files[NAMES[0]]
    assert (entry.bytes, entry.sha256) == (len(graph_about(b"old context")), sha256_of(graph_about(b"old context")))
    assert sorted(os.listdir(tmp_path)) == ["b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_a_flipped_byte_in_a_graph_is_found_and_the_file_named(real: Path, name: str, where: float) -> None:
    content = bytearray((real / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (real / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} was altered"):
        load_bundle(real)


def test_a_file_exchanged_after_loading_is_not_used(old: Path) -> None:
    bundle = load_bundle(old)
    (old / NAMES[1]).write_bytes(graph_about(b"bad step"))
    assert bundle.read("context") == graph_about(b"old context")
    with pytest.raises(BundleError, match="was altered"):
        bundle.read("step")


@pytest.mark.parametrize("name", [*NAMES, MANIFEST])
def test_a_missing_file_is_named(real: Path, name: str) -> None:
    (real / name).unlink()
    with pytest.raises(BundleError, match=rf"(lacks the file|has no) {name}"):
        load_bundle(real)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"", lambda c: c + b"\0"], ids=["cut", "emptied", "grown"])
def test_a_file_of_another_size_is_refused_with_both_sizes(real: Path, name: str, change: Any) -> None:
    content = (real / name).read_bytes()
    (real / name).write_bytes(change(content))
    with pytest.raises(BundleError, match=rf"{name} has {len(change(content))} bytes, the manifest says {len(content)}"):
        load_bundle(real)


def test_a_cut_manifest_is_refused_wherever_it_was_cut_and_with_what_is_not_text_behind_it(old: Path) -> None:
    content = (old / MANIFEST).read_bytes().rstrip()
    for length in range(0, len(content), 37):
        (old / MANIFEST).write_bytes(content[:length] + b"\xff" * (length % 2))
        with pytest.raises(BundleError):
            load_bundle(old)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_path_that_leads_out_of_the_bundle_is_refused_even_if_the_file_is_there(old: Path, name: str) -> None:
    (old.parent / "x").write_bytes(b"outside")
    content = json.loads((old / MANIFEST).read_text(encoding="utf-8"))
    target = Path(name) if name.startswith("/") else old.parent / "x"
    content["files"][name] = {
        "role": "context",
        "precision": "fp32",
        "sha256": sha256_of(target.read_bytes()),
        "bytes": target.stat().st_size,
    }
    (old / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match="not a plain path within the bundle; refused"):
        load_bundle(old)


def test_a_symlink_that_leads_out_of_the_bundle_is_refused(old: Path) -> None:
    (old.parent / "outside").write_bytes(graph_about(b"old step"))
    (old / NAMES[1]).unlink()
    (old / NAMES[1]).symlink_to("../outside")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        load_bundle(old)


def test_a_symlink_to_the_bundle_or_within_it_is_fine(old: Path, tmp_path: Path) -> None:
    (old / "real.onnx").write_bytes(graph_about(b"old step"))
    (old / NAMES[1]).unlink()
    (old / NAMES[1]).symlink_to("real.onnx")
    (tmp_path / "link").symlink_to(old)
    assert load_bundle(tmp_path / "link").read("step") == graph_about(b"old step")


def test_a_symlink_that_goes_in_a_circle_is_a_bundle_error(old: Path) -> None:
    (old / NAMES[1]).unlink()
    (old / NAMES[1]).symlink_to(NAMES[1])
    with pytest.raises(BundleError):
        load_bundle(old)


def test_what_is_no_bundle_folder_is_said_to_be_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for name, said in (("file", "is a file"), ("nothing", "does not exist"), ("empty", "is not a bundle")):
        with pytest.raises(BundleError, match=said):
            load_bundle(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_path_that_no_file_can_have_is_a_bundle_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        load_bundle(tmp_path / name)


def test_a_bundle_is_replaced_only_on_demand_and_then_wholly(old: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        save_bundle(old, EMPTY, NEW)
    assert load_bundle(old).read("step") == graph_about(b"old step")
    (old / "stale.onnx").write_bytes(b"left over")
    assert save_bundle(old, EMPTY, NEW, replace_existing=True).read("step") == graph_about(b"new step")
    assert os.listdir(old.parent) == ["bundle"]
    assert sorted(os.listdir(old)) == sorted([*NAMES, MANIFEST])


def test_a_bundle_named_by_a_symlink_is_replaced_or_nothing_changes(old: Path) -> None:
    link = old.parent / "link"
    link.symlink_to(old)
    before = _snapshot(old.parent)
    try:
        save_bundle(link, EMPTY, NEW, replace_existing=True)
    except OutputError:
        assert _snapshot(old.parent) == before
    else:
        assert load_bundle(link).read("step") == graph_about(b"new step")
        assert not [name for name in os.listdir(old.parent) if name.startswith(".")]


@pytest.mark.parametrize(
    "content",
    [{}, {"photo.jpg": "mine"}, {MANIFEST: '{"name": "a web app"}', "index.html": "mine"}],
    ids=["empty", "photos", "web app"],
)
def test_a_folder_that_is_not_a_bundle_is_never_replaced(tmp_path: Path, content: dict[str, str]) -> None:
    (tmp_path / "mine").mkdir()
    for name, text in content.items():
        (tmp_path / "mine" / name).write_text(text, encoding="utf-8")
    before = _snapshot(tmp_path)
    with pytest.raises(OutputError, match="not a bundle"):
        save_bundle(tmp_path / "mine", EMPTY, NEW, replace_existing=True)
    assert _snapshot(tmp_path) == before


class _BreaksMidway(Mapping[str, tuple[str, str, bytes]]):
    """Contents that can be hashed, and fail after the first file when they are read again to be written."""

    def __init__(self) -> None:
        self.passes = 0

    def __getitem__(self, name: str) -> tuple[str, str, bytes]:
        if self.passes > 1 and name == NAMES[1]:
            raise KeyError("the source is gone")
        return NEW[name]

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return iter(NEW)

    def __len__(self) -> int:
        return len(NEW)


@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_midway_leaves_the_old_bundle_and_no_temporary(old: Path, exists: bool) -> None:
    target = old if exists else old.parent / "another"
    before, contents = _snapshot(old.parent), _BreaksMidway()
    with pytest.raises(KeyError, match="gone"):
        save_bundle(target, EMPTY, contents, replace_existing=True)
    assert contents.passes == 2
    assert _snapshot(old.parent) == before


@pytest.mark.parametrize("failing", ["exchange", 0, 1])
def test_a_failing_rename_leaves_the_old_bundle_and_no_temporary(old: Path, monkeypatch: pytest.MonkeyPatch, failing: str | int) -> None:
    """In one step, and in the two where the file system cannot do it in one."""
    before, rename, calls = _snapshot(old.parent), os.rename, []

    def in_one_step(one: Path, other: Path, flags: int) -> bool:
        if failing == "exchange":
            raise OSError(5, "Input/output error")
        return False

    def renamed(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) - 1 == failing:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(exchange, "_renameat2", in_one_step)
    monkeypatch.setattr(exchange.os, "rename", renamed)
    with pytest.raises(OutputError, match=r"the disk reports an error .*; nothing was written"):
        save_bundle(old, EMPTY, NEW, replace_existing=True)
    monkeypatch.undo()
    assert _snapshot(old.parent) == before


@pytest.mark.parametrize("name", ["../evil", "sub/../../evil"])
def test_a_file_name_that_leads_out_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises((BundleError, OutputError)):
        save_bundle(tmp_path / "b", EMPTY, {**NEW, name: ("step", "fp16", b"evil")})
    assert _snapshot(tmp_path) == {}
