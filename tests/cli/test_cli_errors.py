"""The user's mistakes on the command line: one message that helps, exit status 2, and nothing written, changed or left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffpose_edge.cli import main
from diffpose_edge.export import bundle_export

Mistake = Callable[..., str]
COMMAND = [sys.executable, "-m", "diffpose_edge"]


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below ``folder``, hidden names too: a file's bytes, a link's target, None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def message_of(stderr: str) -> str:
    """The message after the progress bar, if one was shown."""
    assert "Traceback" not in stderr
    lines = stderr.splitlines()
    begin = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(begin) == 1, f"expected one line that begins with 'error: ' in {stderr!r}"
    return "\n".join(lines[begin[0] :])


@pytest.fixture
def mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mistake:
    """Run the command line; check that it fails as a mistake should and leaves tmp_path as it was; return its message."""

    def run(*arguments: object, usage: bool = False) -> str:
        before = contents(tmp_path)
        monkeypatch.setattr(sys, "argv", ["diffpose-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        stderr = capsys.readouterr().err
        assert stop.value.code == 2
        assert contents(tmp_path) == before
        return stderr if usage else message_of(stderr)

    return run


@pytest.fixture
def pair(golden: Any) -> list[object]:
    return ["--denoiser", golden.denoiser, "--context", golden.context]


@pytest.fixture
def clip(tmp_path: Path, golden: Any) -> Path:
    np.savez(tmp_path / "clip.npz", keypoints=golden.expected["input_2d"])
    return tmp_path / "clip.npz"


# export


def bad_checkpoint(kind: str, path: Path, good: Path) -> None:
    whole = good.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "NaN":
        torch.save([{k: torch.full_like(v, float("nan")) for k, v in torch.load(good)[0].items()}], path)
    elif kind != "missing":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"<html>Not Found</html>"}[kind])


@pytest.mark.parametrize("role", ["denoiser", "context"])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "cut", "text", "NaN"])
def test_export_of_a_bad_checkpoint(mistake, golden, tmp_path, role, kind):
    path = tmp_path / "bad.pth"
    bad_checkpoint(kind, path, getattr(golden, role))
    files = {"denoiser": golden.denoiser, "context": golden.context, role: path}
    message = mistake("export", "--denoiser", files["denoiser"], "--context", files["context"], "--out", tmp_path / "bundle")
    assert "bad.pth" in message


def test_export_of_the_pair_swapped(mistake, golden, tmp_path):
    message = mistake("export", "--denoiser", golden.context, "--context", golden.denoiser, "--out", tmp_path / "bundle")
    assert "not a denoiser" in message
    assert "other checkpoint of the pair" in message


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--heads", "5", "got 5"),
        ("--samples", "0", "got 0"),
        ("--persons", "0", "got 0"),
        ("--persons", "70000", "got 70000"),
        ("--timesteps", "0,12", "decreasing"),
        ("--timesteps", "12,12", "decreasing"),
        ("--timesteps", "51,0", "0..50"),
        ("--timesteps", "-1", "0..50"),
        ("--timesteps", "a,b", "'a,b'"),
        ("--timesteps", "12;0", "'12;0'"),
        ("--timesteps", "", "''"),
    ],
)
def test_export_with_a_wrong_number(mistake, pair, tmp_path, option, value, expected):
    assert expected in mistake("export", *pair, "--out", tmp_path / "bundle", option, value)


@pytest.mark.parametrize("arguments", [["--samples", "many"], ["--nonsense", "1"], ["--out"]], ids=" ".join)
def test_wrong_usage_is_explained_by_the_parser(mistake, pair, tmp_path, arguments):
    assert arguments[0] in mistake("export", *pair, "--out", tmp_path / "bundle", *arguments, usage=True)


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the golden pair for the first test only: what matters here is what is written."""
    real = bundle_export.proved_graphs
    monkeypatch.setattr(bundle_export, "proved_graphs", lambda *given: TRACED.get("golden") or TRACED.setdefault("golden", real(*given)))


TRACED: dict[str, Any] = {}


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("place", ["bundle", "foreign folder", "file", "dangling link", "no parent", "file as parent", "long name"])
def test_export_to_an_impossible_place(mistake, pair, golden_bundle, tmp_path, place):
    out, force = tmp_path / "out", []
    if place == "bundle":
        shutil.copytree(golden_bundle, out)
    elif place == "foreign folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
        force = ["--force"]
    elif place == "file":
        out.write_text("precious")
        force = ["--force"]
    elif place == "dangling link":
        out.symlink_to("nowhere")
    elif place == "no parent":
        out = out / "deep" / "bundle"
    elif place == "file as parent":
        out.write_text("precious")
        out = out / "bundle"
    else:
        out = tmp_path / ("x" * 300)
    assert out.name in mistake("export", *pair, "--out", out, *force)


# run

UV = np.zeros((4, 17, 2), np.float32)
WITH_NAN, WITH_INF = UV.copy(), UV.copy()
WITH_NAN[2, 16, 1], WITH_INF[0, 3, 0] = np.nan, np.inf
CLIPS = {
    "NaN": ({"keypoints": WITH_NAN}, "[2, 16] (right_wrist)"),
    "inf": ({"keypoints": WITH_INF}, "[0, 3] (right_foot)"),
    "one frame without axis": ({"keypoints": UV[0]}, "(17, 2)"),
    "four axes": ({"keypoints": UV[None]}, "(1, 4, 17, 2)"),
    "four numbers a joint": ({"keypoints": np.zeros((4, 17, 4))}, "(4, 17, 4)"),
    "COCO": ({"keypoints": UV[:, :16]}, "got 16"),
    "no frames": ({"keypoints": UV[:0]}, "(0, 17, 2)"),
    "pixels": ({"keypoints": UV + 640}, "image_size"),
    "pixels beyond float32": ({"keypoints": UV.astype(float) + 1e300}, "finite"),
    "image without area": ({"keypoints": UV + 640, "image_size": np.array([0, 480])}, "image_size"),
    "image size of three": ({"keypoints": UV + 640, "image_size": np.array([640, 480, 3])}, "image_size"),
    "confidence of 2": ({"keypoints": np.full((4, 17, 3), 2.0)}, "0..1"),
    "confidence of another clip": ({"keypoints": UV, "confidence": np.ones((3, 17))}, "(4, 17)"),
    "words": ({"keypoints": np.array(["left", "right"])}, "numbers"),
    "another name": ({"poses": UV}, "poses"),
    "objects": ({"keypoints": np.array([{}, []], dtype=object)}, "plain arrays"),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_run_on_a_bad_clip(mistake, golden_bundle, tmp_path, kind):
    arrays, expected = CLIPS[kind]
    np.savez(tmp_path / "clip.npz", **arrays)
    (tmp_path / "poses.npz").write_bytes(b"older results")
    message = mistake("run", golden_bundle, "--keypoints", tmp_path / "clip.npz", "--out", tmp_path / "poses.npz")
    assert expected in message


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "cut", "text", "npy", "damaged", "odd header", "encrypted"])
def test_run_on_a_file_that_is_no_clip(mistake, golden_bundle, clip, tmp_path, kind):
    whole = clip.read_bytes()
    clip.unlink()
    if kind == "folder":
        clip.mkdir()
    elif kind == "npy":
        with open(clip, "wb") as file:
            np.save(file, UV)
    elif kind == "damaged":
        np.savez_compressed(clip, keypoints=UV)
        whole = clip.read_bytes()
        begin = whole.index(b"keypoints.npy") + 13
        clip.write_bytes(whole[:begin] + b"\xff" * 40 + whole[begin + 40 :])
    elif kind == "odd header":
        # Brackets that never close, in a header that numpy reads as Python.
        with zipfile.ZipFile(clip, "w") as archive:
            archive.writestr("keypoints.npy", b"\x93NUMPY\x01\x00" + b"\x10\x00" + b"{'descr': ('<f4'")
    elif kind == "encrypted":
        at = whole.index(b"PK\x01\x02") + 8
        clip.write_bytes(whole[:6] + b"\x01" + whole[7:at] + b"\x01" + whole[at + 1 :])
    elif kind != "missing":
        clip.write_bytes({"empty": b"", "cut": whole[:-200], "text": b"frame,x,y\n"}[kind])
    assert "clip.npz" in mistake("run", golden_bundle, "--keypoints", clip, "--out", tmp_path / "poses.npz")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--timesteps", "0,12"], "decreasing"),
        (["--timesteps", "51,0"], "0..50"),
        (["--timesteps", "a"], "'a'"),
        (["--mode", "wild"], "released, noised"),
        (["--backend", "abacus"], "onnxruntime"),
        (["--threads", "0"], "got 0"),
        (["--threads", "100000"], "got 100000"),
        (["--seed", "-1"], "got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_with_a_wrong_option(mistake, golden_bundle, clip, tmp_path, arguments, expected):
    (tmp_path / "poses.npz").write_bytes(b"older results")
    assert expected in mistake("run", golden_bundle, "--keypoints", clip, "--out", tmp_path / "poses.npz", *arguments)


# bundles


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


STEP = "step.fp32.onnx"
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "does not exist"),
    "a file": (lambda b: (shutil.rmtree(b), b.write_text("x")), "is a file"),
    "empty folder": (lambda b: [f.unlink() for f in b.iterdir()], "not a bundle"),
    "flipped byte": (lambda b: flip(b / STEP), "altered"),
    "cut file": (lambda b: os.truncate(b / STEP, 1000), "1000 bytes"),
    "missing file": (lambda b: (b / STEP).unlink(), STEP),
    "future version": (lambda b: edit(b, lambda m: m.update(format_version=99)), "99"),
    "another format": (lambda b: edit(b, lambda m: m.update(format="zip")), "not a bundle"),
    "escaping path": (lambda b: edit(b, lambda m: m["files"].update({"../clip.npz": m["files"][STEP]})), "refused"),
    "link outside": (lambda b: ((b / STEP).rename(b.parent / STEP), (b / STEP).symlink_to(b.parent / STEP)), "refused"),
    "link to itself": (lambda b: ((b / STEP).unlink(), (b / STEP).symlink_to(STEP)), STEP),
    "not JSON": (lambda b: (b / "manifest.json").write_text("{"), "not JSON"),
    "endless number": (lambda b: (b / "manifest.json").write_text('{"format": ' + "1" * 5000 + "}"), "manifest.json"),
    "alpha_bar beyond float": (lambda b: edit(b, lambda m: m["schedule"]["alpha_bar"].insert(0, 10**400)), "alpha_bar"),
}


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("command", ["run", "inspect", "verify"])
def test_bad_bundle(mistake, golden_bundle, pair, clip, tmp_path, command, kind):
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    SPOILED[kind][0](bundle)
    more = {"run": ["--keypoints", clip, "--out", tmp_path / "poses.npz"], "verify": [*pair, "--json", tmp_path / "r.json"], "inspect": []}
    assert SPOILED[kind][1] in mistake(command, bundle, *more[command])


# verify


@pytest.mark.parametrize("kind", ["missing", "another size", "another kind", "swapped"])
def test_verify_with_checkpoints_that_cannot_be_its_own(mistake, golden, random_pair, golden_bundle, clip, tmp_path, kind):
    denoiser, context = {
        "missing": (golden.denoiser, tmp_path / "gone.pth"),
        "another size": random_pair,
        "another kind": (golden.denoiser, golden.mixste),
        "swapped": (golden.context, golden.denoiser),
    }[kind]
    (tmp_path / "report.json").write_text("older")
    pair = ["--denoiser", denoiser, "--context", context]
    message = mistake("verify", golden_bundle, *pair, "--keypoints", clip, "--json", tmp_path / "report.json")
    assert {"missing": "gone.pth", "another size": "hidden=96", "another kind": "VideoConfig", "swapped": "not a denoiser"}[kind] in message


# places that cannot be written to


@pytest.mark.parametrize("place", ["folder", "no parent", "file as parent", "long name", "pipe"])
@pytest.mark.parametrize("command", ["run", "verify"])
def test_output_file_in_an_impossible_place(mistake, golden_bundle, pair, clip, tmp_path, command, place):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    out = {"folder": "folder", "pipe": "pipe", "no parent": "gone/out", "file as parent": "clip.npz/out", "long name": "x" * 300}[place]
    more = ["--out", tmp_path / out] if command == "run" else [*pair, "--json", tmp_path / out]
    assert out in mistake(command, golden_bundle, "--keypoints", clip, *more)


@pytest.fixture
def writing(golden_bundle: Path, golden: Any, clip: Path) -> Callable[[str, Path], list[str]]:
    """Full command lines that write to a folder: ``poses.npz`` or ``bundle``."""

    def command(name: str, place: Path) -> list[str]:
        run = ["run", golden_bundle, "--keypoints", clip, "--out", place / "poses.npz"]
        export = ["export", "--denoiser", golden.denoiser, "--context", golden.context, "--out", place / "bundle"]
        return [*COMMAND, *map(str, run if name == "run" else export)]

    return command


MOUNTED = """
mount -t tmpfs -o size=64k tmpfs "$PLACE" || exit 77
printf older > "$PLACE/poses.npz" && head -c 56000 /dev/zero > "$PLACE/filler" && mount -o "remount,$OPTION" "$PLACE" || exit 77
"$@"; status=$?
ls -A "$PLACE"; cat "$PLACE/poses.npz"; exit $status
"""


@pytest.mark.parametrize(
    ("name", "option", "expected"), [("run", "rw", "disk is full"), ("run", "ro", "read-only"), ("export", "rw", "disk is full")]
)
def test_full_and_read_only_disk(writing, golden, tmp_path, name, option, expected):
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small disk of its own needs Linux, root and unshare")
    (tmp_path / "disk").mkdir()
    command = writing(name, tmp_path / "disk")
    if name == "run":
        np.savez(tmp_path / "clip.npz", keypoints=np.tile(golden.expected["input_2d"], (20, 1, 1)))
    environment = {**os.environ, "PLACE": str(tmp_path / "disk"), "OPTION": option}
    done = subprocess.run(["unshare", "-m", "sh", "-c", MOUNTED, "sh", *command], env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"no disk could be mounted: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    assert expected in message_of(done.stderr)
    assert done.stdout == "filler\nposes.npz\nolder"


def test_file_size_limit(writing, tmp_path):
    (tmp_path / "poses.npz").write_bytes(b"older results")
    before = contents(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)); from diffpose_edge.cli import main; main()"
    command = [sys.executable, "-B", "-c", limit, *writing("run", tmp_path)[len(COMMAND) :]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "size limit" in message_of(done.stderr)
    assert contents(tmp_path) == before


# as a process of its own


@pytest.mark.parametrize(
    "arguments", [["inspect", "gone"], ["run", "gone", "--keypoints", "k", "--out", "o"], ["export", "--timesteps", "x"]]
)
def test_the_process_says_error_first_and_ends_with_2(golden, tmp_path, arguments):
    if arguments[0] == "export":
        arguments = [*arguments, "--denoiser", golden.denoiser, "--context", golden.context, "--out", "o"]
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_results_never_replace_their_input(mistake, golden_bundle, clip):
    before = clip.read_bytes()
    assert "would replace the input" in mistake("run", golden_bundle, "--keypoints", clip, "--out", clip)
    assert clip.read_bytes() == before
