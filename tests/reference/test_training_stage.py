"""A training stage: repeatable, gone on with bit for bit after any interruption, and stopped by what cannot be gone on with."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffpose_edge.errors import OutputError, TrainingError
from diffpose_edge.reference.training.batches import held_out_batch, training_batch
from diffpose_edge.reference.training.bodies import poses_of
from diffpose_edge.reference.training.context_stage import context_error, context_loss
from diffpose_edge.reference.training.motions import Clip, MotionSource
from diffpose_edge.reference.training.pair import build_encoder
from diffpose_edge.reference.training.plans import PLANS, StagePlan
from diffpose_edge.reference.training.procedural import random_motions
from diffpose_edge.reference.training.stage import learning_rate, train_stage

# Twelve batches: within an epoch progress is reported once, after the tenth.
PLAN = StagePlan(epochs=3, steps=12, batch=6, warmup=4)
Weights = dict[str, Tensor]


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def source() -> MotionSource:
    poses = poses_of(0.3 * random_motions(1, 40, np.random.default_rng(0))[0])
    return MotionSource([Clip("a", poses, 30.0)], 1)


@pytest.fixture(scope="module")
def run(source: MotionSource) -> Callable[..., Weights]:
    """Train the tiny plan's encoder in a folder; return its weights."""

    def train(folder: Path, *, init: int = 0, identity: str = "a training", plan: StagePlan = PLAN, progress=None, loss=None) -> Weights:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(init)
        network = build_encoder(PLANS["tiny"])
        unseen = [held_out_batch(source, 16, (4, 0))]

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            own = context_loss(network, training_batch(source, plan.batch, (0, 0, step)))
            return own if loss is None else loss(step, own, network)

        progress = progress or (lambda *_: None)
        ema = train_stage("context", network, loss_of, lambda averaged: context_error(averaged, unseen), plan, folder, identity, progress)
        return {k: v.clone() for k, v in ema.state_dict().items()}

    return train


@pytest.fixture(scope="module")
def whole(run: Callable[..., Weights], tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Path]:
    """The weights and the folder of a training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "context.log.jsonl").read_text().splitlines()]


def untimed(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log]


def test_the_same_seeds_give_the_same_weights_bit_for_bit(run, whole, tmp_path):
    assert same(whole[0], run(tmp_path / "again"))
    assert untimed(log_of(whole[1])) == untimed(log_of(tmp_path / "again"))
    assert not same(whole[0], run(tmp_path / "other", init=1))


def test_progress_tells_of_the_beginning_the_middle_and_the_end_of_epochs(run, tmp_path):
    told: list[tuple[Any, ...]] = []
    run(tmp_path, progress=lambda *report: told.append(report))
    assert [(name, done, total) for name, done, total, _ in told] == [
        ("context", done, 36) for done in (0, 10, 12, 22, 24, 34, 36)
    ]  # fmt: skip
    kinds = [set(figures) for *_, figures in told]
    assert kinds[0] == set()
    assert kinds[1::2] == [{"loss"}] * 3
    assert all({"loss", "gradient", "mpjpe_mm", "held_out_mm", "seconds", "learning_rate"} == kind for kind in kinds[2::2])


def test_an_epoch_is_reported_when_it_is_on_disk(run, tmp_path):
    lengths = []

    def look(_: str, done: int, __: int, figures: dict[str, float]) -> None:
        if "seconds" in figures:
            lengths.append((done // PLAN.steps, len(log_of(tmp_path)), (tmp_path / "context.state.safetensors").exists()))

    run(tmp_path, progress=look)
    assert lengths == [(1, 1, True), (2, 2, True), (3, 3, True)]


@pytest.mark.parametrize("at", range(7))
def test_stopped_anywhere_it_goes_on_to_the_same_weights(run, whole, tmp_path, at):
    """Stopped at each report in turn: at the beginning, in the middle of every epoch, and after it."""
    count = iter(range(100))

    def stop(*_: object) -> None:
        if next(count) == at:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path / "parts", progress=stop)
    kept = at // 2
    # Other fresh weights, to see that everything comes from the disk once an epoch is there.
    told: list[tuple[Any, ...]] = []
    resumed = run(tmp_path / "parts", init=0 if kept == 0 else 99, progress=lambda *report: told.append(report))
    assert told[0][1:] == (kept * PLAN.steps, PLAN.total, {})
    assert same(whole[0], resumed)
    log = log_of(tmp_path / "parts")
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert untimed(log) == untimed(log_of(whole[1]))
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["context.log.jsonl", "context.state.safetensors"]


def test_stopped_again_and_again_it_still_arrives(run, whole, tmp_path):
    for _ in range(2):
        count = iter(range(100))

        def stop(*_: object, count=count) -> None:
            if next(count) == 3:
                raise Stopped

        with pytest.raises(Stopped):
            run(tmp_path / "parts", progress=stop)
    assert same(whole[0], run(tmp_path / "parts"))
    assert [line["epoch"] for line in log_of(tmp_path / "parts")] == [1, 2, 3]


def test_a_finished_stage_is_not_trained_again(run, tmp_path):
    def never(*_: object) -> Any:
        raise AssertionError("a batch was trained")

    first = run(tmp_path)
    before = (tmp_path / "context.state.safetensors").stat().st_mtime_ns
    assert same(first, run(tmp_path, init=99, loss=never))
    assert (tmp_path / "context.state.safetensors").stat().st_mtime_ns == before


def test_a_log_that_is_ahead_of_the_state_is_cut(run, whole, tmp_path):
    """As after a kill between writing the log and writing the state."""
    with pytest.raises(Stopped):
        run(tmp_path / "parts", progress=stop_after_epoch(1))
    log = tmp_path / "parts" / "context.log.jsonl"
    log.write_text(log.read_text() + '{"epoch": 2, "loss": 0.0}\n')
    assert same(whole[0], run(tmp_path / "parts"))
    assert untimed(log_of(tmp_path / "parts")) == untimed(log_of(whole[1]))


def stop_after_epoch(epoch: int) -> Callable[..., None]:
    def stop(_: str, done: int, __: int, figures: dict[str, float]) -> None:
        if "seconds" in figures and done == epoch * PLAN.steps:
            raise Stopped

    return stop


@pytest.mark.parametrize("kind", ["identity", "cut", "empty", "text", "folder", "other tensors"])
def test_a_state_that_is_not_this_trainings_is_refused_and_left_alone(run, tmp_path, kind):
    with pytest.raises(Stopped):
        run(tmp_path, progress=stop_after_epoch(1))
    state = tmp_path / "context.state.safetensors"
    content = state.read_bytes()
    if kind == "folder":
        state.unlink()
        state.mkdir()
    elif kind == "other tensors":
        content = content.replace(b"network.gconv_input.bias", b"network.gconv_input.gain")
    elif kind != "identity":
        content = {"cut": content[:-100], "empty": b"", "text": b"hello"}[kind]
    if kind != "folder":
        state.write_bytes(content)
    with pytest.raises(TrainingError, match=r"context\.state\.safetensors"):
        run(tmp_path, identity="another training" if kind == "identity" else "a training")
    assert kind == "folder" or state.read_bytes() == content
    assert len(log_of(tmp_path)) == 1


@pytest.mark.parametrize("bad", ["loss", "infinite loss", "loss alone", "gradient"])
def test_a_loss_that_is_not_finite_stops_with_the_last_epoch_kept(run, whole, tmp_path, bad):

    def spoilt(step: int, own: tuple[Tensor, dict[str, float]], network: nn.Module) -> tuple[Tensor, dict[str, float]]:
        loss, figures = own
        if step != PLAN.steps + 5:
            return own
        if bad == "gradient":
            # Zero, with an infinite slope.
            return loss + (0.0 * next(iter(network.parameters())).sum()).abs().sqrt(), figures
        if bad == "loss alone":
            return loss + math.inf, figures
        return loss * (math.nan if bad == "loss" else math.inf), figures

    with pytest.raises(TrainingError, match=r"no longer finite \(batch 17"):
        run(tmp_path / "parts", loss=spoilt)
    assert [line["epoch"] for line in log_of(tmp_path / "parts")] == [1]
    assert same(whole[0], run(tmp_path / "parts", init=99))


def test_a_full_disk_keeps_the_epoch_before(run, whole, tmp_path, monkeypatch):
    real, writes = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        writes.append(path)
        if len(writes) == 2:
            real(path, content[:100])
            raise OSError(28, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        run(tmp_path / "parts")
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["context.log.jsonl", "context.state.safetensors"]
    assert same(whole[0], run(tmp_path / "parts"))
    assert [line["epoch"] for line in log_of(tmp_path / "parts")] == [1, 2, 3]


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    plan = StagePlan(epochs=4, steps=25, batch=1, learning_rate=2.0, warmup=10)
    rates = [learning_rate(plan, step) for step in range(plan.total)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert learning_rate(plan, plan.total) == pytest.approx(0.02)


def test_the_answer_is_the_average_of_the_weights_passed_through(run, tmp_path):
    """The average by its recurrence, from the weights seen at the beginning of each batch and the state's last ones."""
    seen: list[Weights] = []

    def watch(_: int, own: Any, network: nn.Module) -> Any:
        seen.append({k: v.detach().clone() for k, v in network.named_parameters()})
        return own

    found = run(tmp_path, loss=watch)
    last = load_file(tmp_path / "context.state.safetensors")
    after = [*seen[1:], {k: last[f"network.{k}"] for k in seen[0]}]
    average = {k: v.double() for k, v in seen[0].items()}
    for step, weights in enumerate(after):
        keep = min(PLAN.ema, (1 + step) / (10 + step))
        average = {k: keep * v + (1 - keep) * weights[k].double() for k, v in average.items()}
    moved = 0.0
    for key, value in average.items():
        torch.testing.assert_close(found[key].double(), value, rtol=0, atol=1e-6)
        moved = max(moved, float((found[key] - last[f"network.{key}"]).abs().max()))
    assert moved > 1e-4, "the average is not the last weights"


def test_only_matrices_decay(run, tmp_path):
    """Without a gradient to speak of, weights shrink by the rate times the decay, biases and scales stay."""
    plan = StagePlan(epochs=1, steps=12, batch=6, warmup=4, weight_decay=0.5)

    def nothing(_: int, own: tuple[Tensor, dict[str, float]], network: nn.Module) -> tuple[Tensor, dict[str, float]]:
        return 0.0 * own[0], own[1]

    torch.manual_seed(0)
    fresh = build_encoder(PLANS["tiny"]).state_dict()
    run(tmp_path, plan=plan, loss=nothing)
    state = load_file(tmp_path / "context.state.safetensors")
    shrunk = math.prod(1 - learning_rate(plan, step) * 0.5 for step in range(12))
    for key, value in fresh.items():
        expected = value * shrunk if value.dim() > 1 and "temb" not in key else value
        torch.testing.assert_close(state[f"network.{key}"], expected, rtol=1e-5, atol=1e-8)
