"""Fewer steps for the same samples: searches timesteps, and fits rows for them, on real poses.

What is aimed at is the walk of every timestep by DDIM (K = 50 for the pairs that ship), from the same starts. For given
timesteps each step's c0, c1, c2 are those that bring the samples nearest to where that walk is at the next timestep, by least
squares: of the state, of what the network says and of what it said before. Those are two or three numbers for tens of thousands
of coordinates. The timesteps are moved one at a time for as long as that brings the samples nearer to the walk's last state.

Distances are those of single samples: a schedule then belongs to the weights, whatever N is. How near the mean pose comes is
reported beside, on poses of other people and motions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle
from diffpose_edge.calibration.observed import frames_to_use
from diffpose_edge.distribution import LOG_SIGMA_SHIFT
from diffpose_edge.errors import TimestepError
from diffpose_edge.evaluation import EvaluationClip
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.metrics import mpjpe
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.plan import StepPlan, step_plan
from diffpose_edge.skeleton import ROOT

Array = NDArray[Any]

SEARCH_SEED, HELD_OUT_SEED = 0, 1
# Poses that are searched on; the fit has three numbers a step, and no more poses changed its timesteps.
FRAMES = 54
# By how much a timestep is moved, coarsest first.
MOVES = (6, 3, 1)
# What counts as nearer, in mm: below it, moves only follow rounding.
GAIN_MM = 1e-3
# u, v of the last state are part of no pose; they keep a little weight so that a fit of them stays determined.
UV_WEIGHT = 1e-3


@dataclass(frozen=True)
class Starts:
    """Where the N samples of M poses start: ``x`` (M, N, 17, 5), the whitened state r of trained pairs, h of released weights;
    ``feature`` (M, 17, C') and ``start`` (M, N, 17, 10) for the former.
    """

    x: Array
    feature: Array | None
    start: Array | None

    def some(self, poses: NDArray[np.int_]) -> Starts:
        """Return the starts of some of the poses, by their numbers."""
        return Starts(self.x[poses], *(None if array is None else array[poses] for array in (self.feature, self.start)))

    def samples(self, x0: Array) -> Array:
        """Return the samples (M, N, 17, 3), metres, relative to the hip, that last states (M, N, 17, 5) mean."""
        xyz = x0[..., 2:]
        if self.start is not None:
            xyz = self.start[..., 2:5] + xyz * self.sigma
        result: Array = xyz - xyz[:, :, ROOT : ROOT + 1]
        return result

    @property
    def sigma(self) -> Array:
        """Metres for one unit of the state's x, y, z, (M, N, 17, 3)."""
        if self.start is None:
            return np.ones((*self.x.shape[:-1], 3), np.float32)
        sigma: Array = np.exp(self.start[..., 7:10] - LOG_SIGMA_SHIFT)
        return sigma


class _StartingBackend(OnnxRuntimeBackend):
    """Goes no step, and keeps what the samples would have started from."""

    def __init__(self, bundle: Bundle):
        super().__init__(bundle.manifest, {role: bundle.read(role) for role in GRAPHS}, threads=1)
        self.kept: list[tuple[Array | None, ...]] = []

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        self.kept.append(tuple(None if array is None else array.copy() for array in (self.x, self.feature, self.start)))
        return self.x


def recorded_starts(bundle: Bundle, clips: Sequence[Keypoints], seed: int) -> tuple[Starts, NDArray[np.bool_]]:
    """Return the starts of every frame of the clips that gets a pose, and which frames those are (all clips one after another)."""
    manifest = bundle.manifest
    P, N = manifest.shape.P, manifest.shape.N
    first = manifest.timesteps[:1]
    backend = _StartingBackend(bundle)
    posed, rows = [], []
    with PoseRuntime(bundle, backend) as runtime:
        for number, clip in enumerate(clips):
            for estimate in runtime.estimate_clip(clip, np.random.default_rng([seed, number]), timesteps=first):
                posed.append(np.isfinite(estimate.joints).all(axis=(1, 2)))
                # People fill batches of P; the last one's padding is left out.
                rows += [min(P, len(estimate.joints) - begun) for begun in range(0, len(estimate.joints), P)]
    known = np.concatenate(posed)
    x, feature, start = (_filled_rows([kept[i] for kept in backend.kept], rows, each) for i, each in ((0, N), (1, 1), (2, N)))
    assert x is not None
    x = x.reshape(-1, N, *x.shape[1:])[known]
    if feature is None or start is None:
        return Starts(x, None, None), known
    r = x / np.float32(np.sqrt(manifest.alpha_bar[first[0]]))
    return Starts(r, feature[known], start.reshape(-1, N, *start.shape[1:])[known]), known


def _filled_rows(batches: Sequence[Array | None], people: Sequence[int], each: int) -> Array | None:
    """Return the rows of all batches without their padding: ``each`` of every person."""
    filled = [batch[: count * each] for batch, count in zip(batches, people, strict=True) if batch is not None]
    return np.concatenate(filled) if filled else None


class Denoiser:
    """A bundle's FP32 step, asked for what the network says."""

    def __init__(self, bundle: Bundle):
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self._session = ort.InferenceSession(bundle.read("step"), options, providers=["CPUExecutionProvider"])
        self._shapes = bundle.manifest.step_io[0]
        self._P = bundle.manifest.shape.P

    def said(self, state: Array, t: int, starts: Starts) -> Array:
        """Return the network's output (M, N, 17, 5) at timestep t for the states that it sees, (M, N, 17, 5)."""
        said = np.empty_like(state)
        for first in range(0, len(state), self._P):
            part = slice(first, first + self._P)
            feed = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
            feed["timestep"][:] = t
            for name, values in (("x", state), ("feature", starts.feature), ("start", starts.start)):
                if values is not None:
                    some = values[part].reshape(-1, *feed[name].shape[1:])
                    feed[name][: len(some)] = some
            eps = self._session.run(["eps"], feed)[0]
            said[part] = eps[: said[part].shape[0] * said.shape[1]].reshape(said[part].shape)
        return said


class Trial:
    """Poses on which schedules are tried: their starts, and where every timestep's walk by DDIM leads.

    ``progress`` hears of each step of that walk. ``dense`` has its timesteps, from the bundle's first to 0.
    """

    def __init__(self, bundle: Bundle, denoiser: Denoiser, starts: Starts, progress: Callable[[int], None] = lambda done: None):
        self.manifest, self.starts, self._denoiser = bundle.manifest, starts, denoiser
        self.dense = tuple(range(bundle.manifest.timesteps[0], -1, -1))
        self._states = self._walked(step_plan(bundle.manifest, self.dense), progress)
        self.samples = starts.samples(self._states[-1])
        self._ahead: dict[tuple[int, ...], tuple[Array, Array]] = {}

    def added_mm(self, samples: Array) -> Array:
        """Return how far samples (M, N, 17, 3) are from those of the dense walk, (M, N, 17), mm."""
        distance: Array = 1000.0 * np.linalg.norm(samples - self.samples, axis=-1)
        return distance

    def samples_of(self, plan: StepPlan) -> Array:
        """Return the samples (M, N, 17, 3) that a plan leads to."""
        return self.starts.samples(self._walked(plan)[-1])

    def first_state(self, t: int) -> Array:
        """Return the state that the network sees at a first timestep t: sqrt(a_t) r, of released weights the start itself."""
        scale = 1.0 if self.starts.start is None else np.sqrt(self.manifest.alpha_bar[t])
        state: Array = (np.float32(scale) * self.starts.x).astype(np.float32)
        return state

    def _walked(self, plan: StepPlan, progress: Callable[[int], None] = lambda done: None) -> list[Array]:
        states = [self.first_state(plan.timesteps[0])]
        before: Array = np.zeros_like(states[0])
        for t, (c0, c1, c2) in zip(plan.timesteps, plan.coefficients, strict=True):
            said = self._denoiser.said(states[-1], t, self.starts)
            states.append(c0 * states[-1] + c1 * said + c2 * before)
            before = said
            progress(1)
        return states

    def fitted(self, timesteps: tuple[int, ...]) -> tuple[FittedSchedule, float]:
        """Return the schedule fitted for these timesteps, and the mean distance of its samples from the dense walk's, mm."""
        rows: list[tuple[float, float, float]] = []
        state, before = self.first_state(timesteps[0]), None
        for k, t in enumerate(timesteps):
            done = timesteps[: k + 1]
            if done not in self._ahead:
                self._ahead[done] = state, self._denoiser.said(state, t, self.starts)
            said = self._ahead[done][1]
            last = k + 1 == len(timesteps)
            aim = self._states[-1] if last else self._states[self.dense.index(timesteps[k + 1])]
            terms = [state, said] if before is None else [state, said, before]
            c = _least_squares(terms, aim, self._weight() if last else None)
            c0, c1, c2 = (*c, 0.0) if before is None else c
            rows.append((c0, c1, c2))
            remembered = 0.0 if before is None else np.float32(c2) * before
            state, before = np.float32(c0) * state + np.float32(c1) * said + remembered, said
        return FittedSchedule(timesteps, tuple(rows)), float(self.added_mm(self.starts.samples(state)).mean())

    def _weight(self) -> Array:
        sigma = self.starts.sigma
        return np.concatenate([np.full((*sigma.shape[:-1], 2), UV_WEIGHT), sigma], axis=-1)


def _least_squares(terms: Sequence[Array], aim: Array, weight: Array | None) -> tuple[float, ...]:
    w = np.ones_like(aim, np.float64) if weight is None else weight
    columns = np.stack([(w * term).reshape(-1) for term in terms], axis=1)
    return tuple(float(c) for c in np.linalg.lstsq(columns, (w * aim).reshape(-1).astype(np.float64), rcond=None)[0])


def searched_timesteps(trial: Trial, K: int, progress: Callable[[int], None] = lambda done: None) -> tuple[int, ...]:
    """Return the K timesteps whose fitted schedule comes nearest to the dense walk, by moving one at a time.

    The first may be earlier than the walk's own for trained pairs, whose start is pure noise: its first steps say little. For
    released weights, whose mode "noised" starts at the first timestep's noise, it stays. ``progress`` hears of each trial.
    Raises TimestepError when there are not K timesteps.
    """
    most = trial.dense[0]
    if not 1 <= K <= most + 1:
        raise TimestepError(f"expected 1 <= K <= {most + 1} steps for this bundle's schedule, got K={K}; choose fewer steps")
    known: dict[tuple[int, ...], float] = {}

    def added(timesteps: tuple[int, ...]) -> float:
        if timesteps not in known:
            known[timesteps] = trial.fitted(timesteps)[1]
            progress(1)
        return known[timesteps]

    held = 0 if trial.starts.start is not None else 1
    best = tuple(round(t) for t in np.linspace(most, 0, K + 1 - held).tolist())[:K]
    for move in MOVES:
        moved = True
        while moved:
            moved = False
            for i, by in itertools.product(range(held, K), (-move, move)):
                tried = (*best[:i], best[i] + by, *best[i + 1 :])
                falls = all(before > after for before, after in itertools.pairwise(tried))
                if falls and tried[-1] >= 0 and tried[0] <= most and added(tried) < added(best) - GAIN_MM:
                    best, moved = tried, True
    return best


@dataclass(frozen=True)
class HeldOut:
    """A trial on poses that were not searched on, with the ``truth`` (M, 17, 3) in metres."""

    trial: Trial
    truth: Array

    @property
    def dense_mpjpe_mm(self) -> float:
        """How far the dense walk's mean pose is from the truth, mm."""
        return round(float(mpjpe(self.trial.samples.mean(axis=1), self.truth)), 3)

    def accuracy(self, plan: StepPlan) -> dict[str, float]:
        """Return, in mm: how far single samples and mean poses are from the dense walk's (mean; 99 % of joints), and how far the
        mean pose is from the truth.
        """
        samples = self.trial.samples_of(plan)
        pose = samples.mean(axis=1)
        apart = 1000.0 * np.linalg.norm(pose - self.trial.samples.mean(axis=1), axis=-1)
        figures = {
            "sample_mm": self.trial.added_mm(samples).mean(),
            "pose_mm": apart.mean(),
            "pose_p99_mm": np.quantile(apart, 0.99),
            "mpjpe_mm": mpjpe(pose, self.truth),
        }
        return {name: round(float(value), 3) for name, value in figures.items()}


def held_out(
    bundle: Bundle, denoiser: Denoiser, clips: Sequence[EvaluationClip], each: int, progress: Callable[[int], None] = lambda done: None
) -> HeldOut:
    """Return ``each`` frames of every clip, evenly spread; of a video encoder's those of the window in the middle of each clip."""
    F = bundle.manifest.shape.F
    chosen, kept = [], []
    for clip in clips:
        first = 0 if F == 1 else max(0, (len(clip) - F) // 2)
        seen = len(clip) if F == 1 else min(F, len(clip))
        spread = np.unique(np.linspace(0, seen - 1, min(each, seen)).round().astype(int))
        # A window is seen whole, whichever of its frames are kept; of single frames only those that are kept are looked at.
        at = first + (spread if F == 1 else np.arange(seen))
        kept.append(np.isin(np.arange(len(at)), spread) if F > 1 else np.ones(len(at), bool))
        chosen.append((Keypoints(clip.uv[at], clip.confidence[at]), clip.truth[at]))
    starts, posed = recorded_starts(bundle, [keypoints for keypoints, _ in chosen], HELD_OUT_SEED)
    wanted = np.concatenate(kept)
    truth = np.concatenate([truth for _, truth in chosen])[posed & wanted]
    return HeldOut(Trial(bundle, denoiser, starts.some(np.flatnonzero(wanted[posed])), progress), truth)


def search_trial(
    bundle: Bundle, denoiser: Denoiser, keypoints: Keypoints, frames: int = FRAMES, progress: Callable[[int], None] = lambda done: None
) -> Trial:
    """Return the poses to search on: at most ``frames`` of a clip, evenly spread. Raises KeypointError for one without poses."""
    F = bundle.manifest.shape.F
    starts, _ = recorded_starts(bundle, [frames_to_use(keypoints, F, frames if F == 1 else len(keypoints))], SEARCH_SEED)
    some = np.unique(np.linspace(0, len(starts.x) - 1, min(frames, len(starts.x))).round().astype(int))
    return Trial(bundle, denoiser, starts.some(some), progress)


def searched_schedule(trial: Trial, held: HeldOut, K: int, progress: Callable[[int], None] = lambda done: None) -> FittedSchedule:
    """Search timesteps for K steps, fit their rows, and record on held-out poses what they reach, beside K even steps of DDIM."""
    manifest = trial.manifest
    schedule, search_mm = trial.fitted(searched_timesteps(trial, K, progress))
    accuracy = {
        "against": f"ddim, every timestep from {held.trial.dense[0]} to 0",
        "N": manifest.shape.N,
        "poses_searched": len(trial.starts.x),
        "sample_mm_searched": round(search_mm, 3),
        "poses_held_out": len(held.truth),
        "fitted": held.accuracy(plan_of_fitted(schedule)),
        "ddim": held.accuracy(step_plan(manifest, steps=K, sampler="ddim")),
        "dense_mpjpe_mm": held.dense_mpjpe_mm,
    }
    return FittedSchedule(schedule.timesteps, schedule.rows, accuracy)


def plan_of_fitted(schedule: FittedSchedule) -> StepPlan:
    """Return the plan of a fitted schedule."""
    return StepPlan("fitted", schedule.timesteps, schedule.coefficients)
