"""Files of strangers given to the commands: exit status 2 and a message that leads no terminal, at once, and nothing written."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.bundle import MANIFEST
from diffpose_edge.cli import main

Attack = Callable[[Path], Path]
ESCAPE = "\x1b"


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.json")
    return folder / "pipe.json"


def zeros(folder: Path) -> Path:
    (folder / "zeros.json").symlink_to("/dev/zero")
    return folder / "zeros.json"


def holes(folder: Path) -> Path:
    with open(folder / "holes.json", "wb") as file:
        file.truncate(1 << 42)
    return folder / "holes.json"


def deep(folder: Path) -> Path:
    (folder / "deep.json").write_text("[" * 10**6, encoding="utf-8")
    return folder / "deep.json"


def bomb(folder: Path) -> Path:
    """An archive whose directory says that it has 4 MB packed and 3 GB unpacked, and whose array agrees."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3 << 18, 1024)})
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("keypoints.npy", header.getvalue() + bytes(1 << 20))
    content = (folder / "bomb.npz").read_bytes()
    # The directory of the whole, with the bytes of a part: nobody should get as far as to notice.
    at = content.index(b"PK\x01\x02")
    whole = (3 << 30) + len(header.getvalue())
    altered = content[: at + 20] + (4 << 20).to_bytes(4, "little") + whole.to_bytes(4, "little") + content[at + 28 :]
    (folder / "bomb.npz").write_bytes(altered)
    return folder / "bomb.npz"


def escapes(folder: Path) -> Path:
    (folder / "e.json").write_text(json.dumps({f"{ESCAPE}[2J{ESCAPE}]0;title\x07": 1}), encoding="utf-8")
    return folder / "e.json"


ATTACKS: dict[str, Attack] = {f.__name__: f for f in (pipe, zeros, holes, deep, bomb, escapes)}
COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "run": lambda bundle, file, out: ["run", bundle, "--keypoints", file, "--out", out],
    "run with a camera": lambda bundle, file, out: ["run", bundle, "--keypoints", file, "--camera", file, "--out", out],
    "view": lambda bundle, file, out: ["view", file, "--out", out],
    "evaluate": lambda bundle, file, out: ["evaluate", bundle, "--data", file, "--json", out],
    "lint": lambda bundle, file, out: ["lint", file],
    "calibrate": lambda bundle, file, out: ["calibrate", bundle, "--calibration", file],
    "inspect": lambda bundle, file, out: ["inspect", file],
    "bench compare": lambda bundle, file, out: ["bench", "compare", file, file],
    "export": lambda bundle, file, out: ["export", "--denoiser", file, "--context", file, "--out", out],
    "convert": lambda bundle, file, out: ["convert", file, out, "--kind", "h36m-2d"],
    "video": lambda bundle, file, out: ["video", file, "--out", out],
    "replay": lambda bundle, file, out: ["replay", file, "--bundle", bundle, "--out", out],
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_file_ends_a_command_with_a_message(
    golden_bundle: Path, tmp_path: Path, command: str, attack: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    file, out = ATTACKS[attack](tmp_path), place / "out.npz"
    arguments = list(map(str, COMMANDS[command](golden_bundle, file, out)))
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    stderr = capsys.readouterr().err
    assert stop.value.code == 2, stderr
    assert "error: " in stderr or "Error" in stderr
    assert "Traceback" not in stderr
    assert ESCAPE not in stderr
    assert len(stderr) < 10_000
    assert not list(place.iterdir())


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from diffpose_edge.cli import main
main()
"""


def test_a_bomb_does_not_meet_the_memory_limit(golden_bundle: Path, tmp_path: Path) -> None:
    """The process may have 3 GB: more than it needs to say no, and less than the bomb would take."""
    command = ["run", golden_bundle, "--keypoints", bomb(tmp_path), "--out", tmp_path / "out.npz"]
    run = subprocess.run([sys.executable, "-c", LIMITED, *map(str, command)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr
    assert "it unpacks to 32" in run.stderr
    assert "and up to 2147483648 are read" in run.stderr


def test_a_manifest_cannot_lead_the_terminal(
    golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "b"))
    content = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    content["provenance"] |= {"note": f"hello {ESCAPE}[2J{ESCAPE}]0;x\x07 \u202eworld", "created": f"{ESCAPE}[31m today"}
    (bundle / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "inspect", str(bundle)])
    with pytest.raises(SystemExit) as stop:
        main()
    shown = capsys.readouterr().out
    assert not stop.value.code
    assert "hello" in shown
    assert not {ESCAPE, "\x07", "\u202e"} & set(shown)


def test_a_pickle_is_loaded_where_it_is_asked_for_by_name_and_nowhere_else(
    golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    content = np.empty((), object)
    content[()] = {"S1": Touch(ran)}
    npz, bare = tmp_path / "data.npz", tmp_path / "bare.npz"
    np.savez(npz, positions_2d=content, metadata=content, keypoints=content, joints=content)
    bare.write_bytes(pickle.dumps(Touch(ran)))
    for file in (npz, bare):
        for name in ("run", "view", "evaluate", "convert", "export", "calibrate"):
            monkeypatch.setattr(sys, "argv", ["diffpose-edge", *map(str, COMMANDS[name](golden_bundle, file, tmp_path / "out"))])
            with pytest.raises(SystemExit) as stop:
                main()
            assert stop.value.code == 2, name
            assert not ran.exists(), name
    unsafe = [*map(str, COMMANDS["convert"](golden_bundle, npz, tmp_path / "out")), "--unsafe-pickle"]
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", *unsafe])
    with pytest.raises(SystemExit):
        main()
    assert ran.exists()  # the control: it would have run
    capsys.readouterr()
