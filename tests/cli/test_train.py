"""``diffpose-edge train``: the tiny plan as a user runs it, stopped and gone on with, and the mistakes that it explains."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffpose_edge import extras
from diffpose_edge.cli import main
from diffpose_edge.cli import train as command
from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.distribution import spread_from_record
from diffpose_edge.errors import TrainingError
from diffpose_edge.export import export_bundle
from diffpose_edge.folder_lock import FolderLock
from diffpose_edge.reference.checkpoints import denoiser_from_file, frame_encoder_from_file
from diffpose_edge.reference.safetensors_files import load_trained, read_safetensors
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.reference.training.log_plot import read_log
from diffpose_edge.reference.training.plans import PLANS
from diffpose_edge.schedule import cosine_alpha_bar

Run = Callable[..., SimpleNamespace]
NETWORKS = ("context.safetensors", "denoiser.safetensors")


@pytest.fixture(scope="module")
def run() -> Run:
    """Run the command line; check its exit status; return what it printed."""

    def call(*arguments: object, status: int = 0) -> SimpleNamespace:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["diffpose-edge", *map(str, arguments)])
            lines: list[str] = []
            patch.setattr(command, "say", lines.append)
            with command.err.capture() as shown, pytest.raises(SystemExit) as stop:
                main()
        assert stop.value.code == status, lines + [shown.get()]
        return SimpleNamespace(out="\n".join(lines), err=shown.get())

    return call


@pytest.fixture(scope="module")
def trained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny plan, trained without interruption: the folder and what was printed."""
    folder = tmp_path_factory.mktemp("trained") / "new" / "folder"
    shown = run("train", "tiny", "--out", folder, "--released")
    return SimpleNamespace(folder=folder, out=shown.out, err=shown.err)


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NETWORKS}


# good runs


def test_it_writes_the_networks_the_logs_and_the_plot_and_says_so(trained):
    stages = [f"{stage}.{kind}" for stage in ("context", "denoiser") for kind in ("log.jsonl", "pth", "safetensors", "state.safetensors")]
    assert sorted(path.name for path in trained.folder.iterdir()) == [*stages, "range.json", "training.png"]
    for name in (*NETWORKS, "context.pth", "denoiser.pth"):
        assert str(trained.folder / name) in trained.out
    assert (trained.folder / "training.png").read_bytes().startswith(b"\x89PNG")
    for stage in ("context", "denoiser"):
        log = read_log(trained.folder / f"{stage}.log.jsonl")
        assert [line["epoch"] for line in log] == [1, 2, 3]
        for line in log:
            assert f"{stage}: epoch {line['epoch']} of 3, loss {line['loss']:.3g}, held out {line['held_out_mm']:.1f} mm" in trained.err
        assert f"{log[-1]['held_out_mm']:.1f} mm" in trained.out
        assert "12/12" in trained.err
    assert "resumed" not in trained.err


def test_the_pair_is_what_the_plan_says_and_loads_as_one(trained):
    plan = PLANS["tiny"]
    pair = load_conditioned(trained.folder / "denoiser.safetensors", trained.folder / "context.safetensors")
    assert (pair.denoiser_config, pair.context_config) == (plan.denoiser, plan.context)
    assert pair.prediction == "v"
    np.testing.assert_array_equal(pair.alpha_bar, cosine_alpha_bar(plan.T))
    record = read_safetensors(trained.folder / "denoiser.safetensors")[1]
    assert (record["plan"], record["seed"]) == ("tiny", plan.seed)
    spread = spread_from_record(record["start"])
    for table in (spread.uv, spread.xyz[:, 1:], spread.residual[:, 1:]):
        assert (table > 0).all()
    # An encoder that knows nothing errs by decimetres, more where it sees nothing of a joint.
    assert 0.1 < spread.xyz[:, 1:].mean() < 1
    assert (spread.uv[0] > spread.uv[-1]).all()


def test_a_causal_pair_is_trained_and_can_be_exported(run, tmp_path):
    run("train", "tiny-causal", "--out", tmp_path / "pair", "--no-plot")
    paths = [tmp_path / "pair" / name for name in ("denoiser.safetensors", "context.safetensors")]
    assert load_conditioned(*paths).context_config == PLANS["tiny-causal"].context
    bundle = export_bundle(*paths, tmp_path / "bundle", samples=2).bundle
    assert bundle.manifest.causal == PLANS["tiny-causal"].context


def test_the_released_form_holds_the_same_weights(trained):
    for name, load in (("context", frame_encoder_from_file), ("denoiser", denoiser_from_file)):
        ours = load_trained(trained.folder / f"{name}.safetensors").network.state_dict()
        theirs = load(trained.folder / f"{name}.pth", heads=2).state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_run_again_it_trains_nothing_and_says_so(run, trained):
    before = files_of(trained.folder)
    logs = {path: path.read_text() for path in trained.folder.glob("*.jsonl")}
    again = run("train", "tiny", "--out", trained.folder, "--no-plot")
    assert "context: done already" in again.err
    assert "denoiser: done already" in again.err
    assert "epoch" not in again.err
    assert str(trained.folder / "denoiser.safetensors") in again.out
    assert files_of(trained.folder) == before
    assert {path: path.read_text() for path in logs} == logs


def started(folder: Path, until: str) -> subprocess.Popen[str]:
    """Start the tiny plan as a process of its own and wait for a file in its folder."""
    line = [sys.executable, "-m", "diffpose_edge", "train", "tiny", "--out", str(folder), "--no-plot"]
    # A test run in the background may be deaf to Ctrl-C, and its children with it; this one has to hear it.
    hearing = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hearing)
    deadline = time.monotonic() + 120
    while not (folder / until).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{until} did not come"
        time.sleep(0.002)
    return process


@pytest.mark.slow
def test_interrupted_and_killed_it_goes_on_to_the_same_weights(run, trained, tmp_path):
    """Ctrl-C in the first stage, kill -9 at a random moment of the rest, and the same command each time."""
    folder = tmp_path / "parts"
    process = started(folder, "context.log.jsonl")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert f"stopped; the same command goes on after the last whole epoch in {folder}" in out
    assert "Traceback" not in err
    assert not (folder / "denoiser.safetensors").exists()

    process = started(folder, "context.state.safetensors")
    moment = random.random() * 4
    time.sleep(moment)
    process.kill()
    process.communicate(timeout=120)
    shown = run("train", "tiny", "--out", folder, "--no-plot")
    assert "done already" in shown.err or "resumed after epoch" in shown.err
    assert files_of(folder) == files_of(trained.folder), f"killed after {moment:.3f} s"
    assert [line["epoch"] for line in read_log(folder / "context.log.jsonl")] == [1, 2, 3]
    assert [line["epoch"] for line in read_log(folder / "denoiser.log.jsonl")] == [1, 2, 3]


def test_a_resumed_run_says_after_which_epoch(run, tmp_path, monkeypatch):
    """Reported by the stage as it begins; here with a stage's worth of reports instead of a training."""

    def resumed(plan, clips, folder, progress, digest):
        progress("context", 8, 12, {})
        progress("context", 12, 12, {"loss": 0.25, "held_out_mm": 31.41, "seconds": 2.0})
        raise KeyboardInterrupt

    monkeypatch.setattr("diffpose_edge.reference.training.pair.train_pair", resumed)
    shown = run("train", "tiny", "--out", tmp_path / "out", "--no-plot", status=130)
    assert "context: resumed after epoch 2 of 3" in shown.err
    assert "context: epoch 3 of 3, loss 0.25, held out 31.4 mm, 2 s" in shown.err
    assert "the same command goes on" in shown.out


def test_options_reach_the_training(run, tmp_path, monkeypatch):
    given = {}

    def watched(plan, clips, folder, progress, digest):
        given.update(plan=plan, clips=[clip.name for clip in clips], folder=folder, digest=digest, threads=torch.get_num_threads())
        raise TrainingError("seen enough")

    monkeypatch.setattr("diffpose_edge.reference.training.pair.train_pair", watched)
    threads = torch.get_num_threads()
    clips = dict(np.load(mocap_clips_path()))
    np.savez(tmp_path / "own.npz", **{name: clips[name] for name in ("boxing", "cmu_02_02", "fps_boxing", "fps_cmu_02_02")})
    own = ("--data", tmp_path / "own.npz", "--seed", 7, "--threads", 2)
    run("train", "tiny-video", "--out", tmp_path / "out", *own, status=2)
    assert given["plan"].name == "tiny-video"
    assert given["plan"].seed == 7
    assert given["clips"] == ["boxing", "cmu_02_02"]
    assert given["folder"] == tmp_path / "out"
    assert given["threads"] == 2
    assert torch.get_num_threads() == threads
    first = given["digest"]
    run("train", "frame", "--out", tmp_path / "out", status=2)
    assert given["plan"] == PLANS["frame"]
    assert len(given["clips"]) == 30
    assert len(first) == len(given["digest"]) == 64
    assert first != given["digest"]


def test_help_mentions_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "train", "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for option in ("out", "data", "threads", "seed", "released", "plot", "no-plot"):
        assert f"--{option}" in shown
    assert "PLAN" in shown


# mistakes


@pytest.fixture
def mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line; check that it fails with status 2 and leaves tmp_path as it was; return its message."""

    def call(*arguments: object, usage: bool = False) -> str:
        before = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
        monkeypatch.setattr(sys, "argv", ["diffpose-edge", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        message = capsys.readouterr().err
        assert stop.value.code == 2, message
        assert usage or message.splitlines()[0].startswith("error: ") or "\nerror: " in message
        assert {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")} == before
        return message

    return call


def test_an_unknown_plan(mistake, tmp_path):
    message = mistake("huge", "--out", tmp_path / "out")
    assert "frame, video, causal, tiny, tiny-video, tiny-causal" in message
    assert "'huge'" in message


def test_a_causal_encoder_has_no_released_form(mistake, tmp_path):
    assert "leave --released out" in mistake("tiny-causal", "--out", tmp_path / "out", "--released")


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--seed", "-1"], ["--seed", "x"], ["--epochs", "3"]], ids=" ".join)
def test_wrong_usage_is_explained_by_the_parser(mistake, tmp_path, arguments):
    assert arguments[0] in mistake("tiny", "--out", tmp_path / "out", *arguments, usage=True)


@pytest.mark.parametrize("kind", ["missing", "text", "other arrays", "nothing held out", "only held out"])
def test_data_that_cannot_be_learnt_from(mistake, tmp_path, kind):
    path = tmp_path / "clips.npz"
    poses = np.random.default_rng(0).standard_normal((50, 17, 3)).astype(np.float32)
    if kind == "text":
        path.write_text("frame,x,y\n")
    elif kind != "missing":
        name = {"other arrays": "keypoints", "nothing held out": "walk", "only held out": "boxing"}[kind]
        np.savez(path, **{name: poses} if kind == "other arrays" else {name: poses / 3, f"fps_{name}": 30.0})
    message = mistake("tiny", "--out", tmp_path / "out", "--data", path)
    assert {"nothing held out": "hold out", "only held out": "none is left"}.get(kind, "clips.npz") in message


@pytest.mark.parametrize("place", ["file", "file as parent", "folder as network", "folder as plot", "read-only"])
def test_a_place_that_cannot_be_written_to_shows_before_the_training(mistake, tmp_path, monkeypatch, place):
    monkeypatch.setattr("diffpose_edge.reference.training.pair.train_pair", lambda *_: pytest.fail("training began"))
    out = tmp_path / "out"
    if place == "file":
        out.write_text("precious")
    elif place == "file as parent":
        out.write_text("precious")
        out = out / "deep"
    elif place == "read-only":
        # Not by taking permissions away: tests may run as root.
        out = Path("/proc/diffpose")
    else:
        (out / {"folder as network": "denoiser.safetensors", "folder as plot": "training.png"}[place]).mkdir(parents=True)
    assert out.name in mistake("tiny", "--out", out)


def test_a_folder_of_another_training(mistake, run, trained, tmp_path):
    for name in ("context.state.safetensors", "context.log.jsonl"):
        (tmp_path / name).write_bytes((trained.folder / name).read_bytes())
    for other in (["tiny", "--seed", 1], ["tiny-video"]):
        assert "another training" in mistake(*other, "--out", tmp_path, "--no-plot")


def test_a_folder_in_which_another_training_runs(mistake, tmp_path):
    (tmp_path / "out").mkdir()
    with FolderLock(tmp_path / "out"):
        said = mistake("tiny", "--out", tmp_path / "out", "--no-plot")
    assert "is being written by this process itself" in said
    assert "Nothing was written" in said


@pytest.mark.parametrize(("missing", "expected"), [("torch", "pip install torch"), ("safetensors", "pip install safetensors")])
def test_missing_packages_are_named_with_the_command_that_brings_them(mistake, tmp_path, monkeypatch, missing, expected):
    real = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda module: module != missing and real(module))
    message = mistake("tiny", "--out", tmp_path / "out")
    assert expected in message
    assert ".[train]" in message


def test_without_matplotlib_it_trains_only_with_no_plot(mistake, run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "is_installed", lambda module: module != "matplotlib")
    message = mistake("tiny", "--out", tmp_path / "out")
    assert "--no-plot" in message
    assert "pip install matplotlib" in message

    def begun(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffpose_edge.reference.training.pair.train_pair", begun)
    run("train", "tiny", "--out", tmp_path / "out", "--no-plot", status=130)
