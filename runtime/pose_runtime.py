"""The runtime that a robot embeds: 2D keypoints in, 3D poses with their spread out."""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from diffpose_edge.bundle import Bundle, trusted_bundle
from diffpose_edge.errors import (
    BudgetError,
    DiffPoseEdgeError,
    KeypointError,
    RuntimeClosed,
)
from diffpose_edge.keypoints import Keypoints, checked_keypoints
from diffpose_edge.mixtures import Mixture
from diffpose_edge.person import PersonView
from diffpose_edge.readings import Reading
from diffpose_edge.runtime.about import about_runtime
from diffpose_edge.runtime.backend import Array, Backend
from diffpose_edge.runtime.budget import Budgets, FixedPace, Pace
from diffpose_edge.runtime.call import Call, Request, timed
from diffpose_edge.runtime.clip import ClipEstimates, clip_load
from diffpose_edge.runtime.counters import Counting, RuntimeCounters, counted
from diffpose_edge.runtime.deadline import Clock, Deadline
from diffpose_edge.runtime.estimate import PoseEstimate
from diffpose_edge.runtime.last_finite import checked_non_finite
from diffpose_edge.runtime.loading import check_backend, load_backend
from diffpose_edge.runtime.measuring import DEFAULT_PAUSE_MS, DEFAULT_ROUNDS, measured_timings
from diffpose_edge.runtime.own_process import Home
from diffpose_edge.runtime.people import checked_people, observed
from diffpose_edge.runtime.plan import StepPlan, step_plan
from diffpose_edge.runtime.range_check import RangeCheck
from diffpose_edge.runtime.start import Draws, Seed, checked_mode, draw_starts, draws_of, generator_of
from diffpose_edge.runtime.video_stream import VideoStream
from diffpose_edge.timings import MachineTimings, save_timings
from diffpose_edge.trust import KeyFiles, trust_of

log = logging.getLogger(__name__)


class PoseRuntime:
    """Owns a loaded bundle's sessions and buffers until ``close()``; use it with ``with``.

    Calls from several threads are taken one after another: the buffers are shared. It belongs to the process that loaded it: in a
    forked one every call raises WrongProcess.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        precision: str = "fp32",
        for_cpu: bool = False,
        non_finite: str = "raise",
        clock: Clock = perf_counter_ns,
    ):
        """Take over a backend that runs the bundle's graphs of a precision, ``for_cpu``: those made for the CPU. ``non_finite``: see
        ``load``. ``clock``: monotonic, nanoseconds, by which budgets are kept.
        """
        self._non_finite, self._range = checked_non_finite(non_finite), RangeCheck(bundle.manifest)
        self.bundle = bundle
        self._backend: Backend | None = backend
        self._home = Home("runtime", "load the bundle there, with PoseRuntime.load")
        # Given back at the end of the program, too, before the modules that it takes are gone.
        self._end = weakref.finalize(self, self._home.releasing(backend.close))
        described = backend.describe()
        self._clock, self._budgets = clock, Budgets(bundle, described, precision, for_cpu, clock)
        self._counting = Counting(about_runtime(bundle.manifest, described, precision))
        self._turns, self._pool_lock = threading.Lock(), threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        about = self._counting.about
        log.info("loaded bundle %s: %s, %s", about["bundle"], about["backend"], precision, extra={"event": "runtime_loaded", **about})

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        backend: str = "onnxruntime",
        *,
        precision: str = "fp32",
        threads: int | None = None,
        flavour: str | None = None,
        provider: str | None = None,
        device: int = 0,
        timed: bool = False,
        portable: bool = False,
        non_finite: str = "raise",
        trusted_key: KeyFiles | None = None,
        trusted_hash: str | None = None,
        unsigned_engines: bool = False,
    ) -> PoseRuntime:
        """Load a bundle, check it, and allocate every buffer that the loop uses.

        ``backend``: "onnxruntime" on the CPU; "tensorrt", with engines that ``diffpose-edge build`` made on this machine;
        "onnxruntime-cuda", with ONNX Runtime's CUDA provider (package onnxruntime-gpu);
        "auto": TensorRT where engines fit this machine, else ONNX Runtime, and the log says why
        (level INFO; WARNING where an engine that should fit is refused).
        ``precision``: "fp32", "fp16" or "int8", as far as the bundle has it (``diffpose-edge calibrate`` makes the graphs);
        states and results are float32 in all of them. ``threads`` is how many cores may be used on the CPU (default: all): the samples
        are dealt out to them. On the CPU the graphs made for it are run, where the bundle has them; with ``portable`` those that
        TensorRT gets, whose operators the cores share. On a GPU: ``flavour`` "tensorrt" or "rtx" and ``provider`` of CUDA
        "cuda-bindings" or "pycuda" (default: the first that is installed), the number of the ``device``, and ``timed`` to have
        encoder and steps timed on the device, which costs a little. ``non_finite``: what a result that is no number does, in whatever this
        runtime computes, streams too: "raise" a NumericalError, or "last": the person gets the pose of their last finite state and is
        marked ``non_finite`` (docs/reliability.md).

        ``trusted_key``: files of Ed25519 public keys (PEM), by one of which the bundle must be signed; ``trusted_hash``: the digest that
        it must have, "sha256:…"; ``unsigned_engines``: run TensorRT engines all the same, which neither covers. Both are checked before
        anything of the bundle is read (docs/signing.md). With neither, DIFFPOSE_TRUSTED_KEY is asked, then any bundle is taken.

        Raises BundleError, SignatureError, MissingPackage, EngineMismatch with the command that builds what is missing, CudaError,
        EngineError, or DiffPoseEdgeError for an unknown backend. A causal encoder runs on the CPU only: EngineError for another backend.
        """
        check_backend(backend, threads)
        checked_non_finite(non_finite)
        trust = trust_of(trusted_key, trusted_hash, unsigned_engines=unsigned_engines)
        loaded = trusted_bundle(bundle, trust)
        chosen = load_backend(
            loaded,
            backend if trust is None else trust.backend(backend),
            precision,
            threads=threads,
            flavour=flavour,
            provider=provider,
            device=device,
            timed=timed,
            portable=portable,
        )
        runtime = cls(loaded, chosen.backend, precision=precision, for_cpu=chosen.for_cpu, non_finite=non_finite)
        if chosen.fell_back:
            runtime._counting.fell_back("cpu")
        return runtime

    def estimate(
        self,
        keypoints: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
        seed: Seed = None,
        *,
        mixture: Mixture | None = None,
        timesteps: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        budget_ms: float | None = None,
        mode: str | None = None,
        trace: bool = False,
    ) -> PoseEstimate:
        """Estimate the poses of B people from normalised 2D keypoints, or from what a detector believes about them.

        keypoints: (B, 17, 2), or (B, 17, 3) with the confidence as third number, or (17, 2|3) for one person. For a
        bundle with a video encoder: windows (B, F, 17, 2|3), of which the newest frame is estimated. B is free: fewer
        than the bundle's P are padded, more take several batches. A joint of confidence 0 was not seen and its
        coordinates are ignored; a person with fewer than 9 joints seen gets NaN.

        mixture: the detector's Gaussian mixture for every joint (:mod:`diffpose_edge.mixtures`: from heatmaps, from
        covariances, from a mixture's parameters), B people; the samples start from components drawn from it (mode
        "distribution"). Without keypoints, those of the heaviest components are taken, for a frame encoder. With them, the
        keypoints' confidence counts, and a joint that the mixture did not see starts at its keypoint.

        timesteps: decreasing, within the schedule (default: the bundle's). Or steps: how many, K; then the schedule that was
        fitted for that K is walked, if the bundle has one (docs/samplers.md), and else K even timesteps. sampler: "ddim", which is
        the default wherever there is nothing fitted, "ab2" (Adams-Bashforth, second order) or "fitted". Or budget_ms, milliseconds
        from this call on: the largest schedule on offer whose 99th percentile, as ``measure`` found it, fits for so many people;
        on the CPU a frame that would be late all the same ends early and is marked ``truncated`` (docs/deadlines.md).

        mode, by default the bundle's own:
        "distribution", for pairs trained with a start distribution, draws N starts from it, with ``seed`` (an int, or a
        numpy Generator, which is advanced, or a list with a Generator for each person). Bundles of released weights have
        "released", which starts every sample at the detected pose, as the published code does: the samples are then equal
        and ``seed`` has no effect; and "noised", which adds the noise of the first timestep. The same seed gives the same
        poses whatever P is. trace: keep every state.

        Raises KeypointError, TimestepError, DiffPoseEdgeError for a mode or a fitted schedule that the bundle does not have,
        BudgetError where nothing was measured, or where not even the smallest schedule fits for P people; NumericalError for a result
        that is no number, unless the runtime was loaded with non_finite="last"; RuntimeClosed.
        """
        asked, pace = self._clock(), self._pace(timesteps, steps, sampler, budget_ms)
        return self._prepared(keypoints, confidence, seed, mixture, pace, asked, mode, trace, own=False)()

    def estimate_async(
        self,
        keypoints: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
        seed: Seed = None,
        *,
        mixture: Mixture | None = None,
        timesteps: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        budget_ms: float | None = None,
        mode: str | None = None,
        trace: bool = False,
    ) -> Future[PoseEstimate]:
        """Begin an estimate and return at once: ``.result()`` waits for it, while the camera or a detector works meanwhile.

        Arguments are checked, and copied, before this returns, so that buffers may be filled anew; mistakes are raised here.
        Estimates are made one after another, in the order in which they were asked for; ``close()`` waits for all of them. A budget
        counts from this call, waiting included.
        Other Python threads run while the GPU, or ONNX Runtime, is at work. Raises as ``estimate`` does; what goes wrong
        later is raised by ``.result()``.
        """
        self._open()
        asked, pace = self._clock(), self._pace(timesteps, steps, sampler, budget_ms)
        work = self._prepared(keypoints, confidence, seed, mixture, pace, asked, mode, trace, own=True)
        with self._pool_lock:
            self._open()  # again: close() may have come between
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="diffpose-edge")
            return self._pool.submit(work)

    @counted
    def _prepared(
        self,
        keypoints: ArrayLike | None,
        confidence: ArrayLike | None,
        seed: Seed,
        mixture: Mixture | None,
        pace: Pace,
        asked: int,
        mode: str | None,
        trace: bool,
        *,
        own: bool,
    ) -> Callable[[], PoseEstimate]:
        """Check everything and return the rest of the work; ``own``: on copies, because the caller's arrays may change meanwhile."""
        checked = checked_people(keypoints, confidence, mixture, self.bundle.manifest.shape.F)
        known, rng = self._mode(mode), draws_of(seed, len(checked.uv))
        if mixture is not None and known != "distribution":
            raise DiffPoseEdgeError(f"mode {known!r} starts at the keypoints: a mixture has no meaning in it. Leave mixture out")
        if mixture is not None and not isinstance(rng, np.random.Generator):
            raise DiffPoseEdgeError(
                "expected one seed beside a mixture, whose components are drawn for all people together; got one for each"
            )
        if own:
            checked, mixture = copy.deepcopy((checked, mixture))
        frame = -1 if self.bundle.manifest.shape.F > 1 else None
        return lambda: self._estimate(checked, frame, pace, asked, known, rng, trace, mixture)

    def estimate_clip(
        self,
        keypoints: Keypoints,
        seed: int | np.random.Generator | None = None,
        *,
        timesteps: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        budget_ms: float | None = None,
        mode: str | None = None,
        trace: bool = False,
    ) -> Iterator[PoseEstimate]:
        """Estimate every frame of one person's clip, in order; yields an estimate for each batch of frames.

        keypoints: (frames, 17, 2), checked (see :func:`diffpose_edge.keypoints.load_keypoints`). A frame encoder takes
        P frames at a time. A video encoder takes windows of F frames one after another, uses its answer for every frame
        of them, and repeats the last frame to fill the last window; where the clip jumps from one person to another
        (:mod:`diffpose_edge.tracks`) a new window begins. A frame in which nobody was found shows the encoder the nearest one
        in which somebody was, and has no pose. A causal encoder takes frame after frame, remembers, and forgets where the clip
        jumps: the poses are those that a stream gives. A budget is each estimate's, from when it is asked for. Raises as ``estimate`` does.
        """
        # Checked here, and not at the first step of the iteration, so that a mistake shows where it is made.
        self._open()
        if not isinstance(keypoints, Keypoints) or keypoints.uv.ndim != 3:
            raise KeypointError("expected the Keypoints of one clip (diffpose_edge.keypoints.checked_keypoints makes them of an array)")
        pace = self._pace(timesteps, steps, sampler, budget_ms, *clip_load(self.bundle.manifest))
        return ClipEstimates(self, pace, self._mode(mode), generator_of(seed), trace).of(keypoints)

    def stream(
        self,
        people: int = 1,
        *,
        hop: int = 1,
        output: str = "last",
        seed: int | np.random.Generator | None = None,
        timesteps: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        budget_ms: float | None = None,
        mode: str | None = None,
    ) -> VideoStream:
        """Begin a stream of frames of ``people``, for a bundle with a video encoder: see :class:`VideoStream`.

        ``hop``: run an encoder of whole windows every so many frames only, the denoiser at every one; a causal encoder takes every
        frame. ``output``: "last", the pose of the frame that was pushed; "middle", of an encoder of windows and without a hop: that of
        the frame (F - 1) // 2 before it, which the encoder sees with its past and its future. ``seed``, ``timesteps``, ``steps``,
        ``sampler``, ``budget_ms`` (of each frame) and ``mode`` as for ``estimate``; the draws of all frames come from one generator.
        Raises DiffPoseEdgeError for a bundle without a video encoder, or a hop or an output that it cannot have, BudgetError where
        the budget is too little for so many people, TimestepError, RuntimeClosed.
        """

        def pace(batches: int) -> Pace:
            return self._pace(timesteps, steps, sampler, budget_ms, batches)

        return VideoStream(self, people, hop, output, seed, pace, self._mode(mode))

    def measure(
        self,
        steps: Sequence[int] | None = None,
        *,
        rounds: int = DEFAULT_ROUNDS,
        pause_ms: float = DEFAULT_PAUSE_MS,
        save: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> MachineTimings:
        """Measure on this machine what frames of K steps take, so that budgets can be kept; see :func:`measured_timings`.

        ``steps``: every K that is to be measured (default: all on offer). ``save``: keep it beside the bundle, where every later runtime
        with the same backend, precision and threads on such a machine finds it. Raises BudgetError for fewer rounds than a 99th
        percentile has, TimestepError for a K that there is not, OutputError, RuntimeClosed.
        """
        found = measured_timings(self, self._budgets.key, steps, rounds, pause_ms, progress)
        if save:
            save_timings(self.bundle, found)
        self._budgets.keep(found)
        return found

    @property
    def timings(self) -> MachineTimings | None:
        """What was measured on this machine with this backend, precision and threads; None where nothing was. Read once, when first
        asked for or needed. Raises BudgetError for a damaged file, RuntimeClosed.
        """
        self._open()
        return self._budgets.timings

    def range_report(self, keypoints: ArrayLike, confidence: ArrayLike | None = None) -> list[str]:
        """Say of each of B people (B, 17, 2|3), or frames, what is out of the range that training showed, and by how much: what
        ``out_of_range`` means. "" for who is within. Raises KeypointError.
        """
        return self._range.report(checked_keypoints(keypoints, confidence))

    @property
    def counters(self) -> RuntimeCounters:
        """What became of the calls so far: a copy. A closed runtime still has it."""
        return self._counting.snapshot()

    @property
    def about(self) -> Mapping[str, str | int]:
        """Bundle, backend, precision and sizes, in a few words; a closed runtime still has them."""
        return self._counting.about

    def readings(self) -> list[Reading]:
        """Return the counters as readings, for :class:`diffpose_edge.metrics_endpoint.MetricsEndpoint`."""
        return self._counting.readings()

    def describe(self) -> dict[str, Any]:
        """Return the backend's name, version and settings. Raises RuntimeClosed."""
        return self._open().describe()

    def close(self) -> None:
        """Wait for what was begun, and release sessions and buffers; a second call does nothing. In a forked process it never does."""
        if not self._home.here:
            return
        with self._pool_lock:  # held until the end: nothing is begun on what is being released
            if self._pool is not None:
                self._pool.shutdown(wait=True)
                self._pool = None
            with self._lock:
                if self._backend is not None:
                    self._end()
                    self._backend = None
                    self._counting.close()

    def __enter__(self) -> PoseRuntime:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        self._home.refuse_to_leave()

    @property
    def _lock(self) -> threading.Lock:
        """Who has it has the buffers. Raises WrongProcess: what a thread of the parent held at the fork, nobody releases in the child."""
        self._home.check()
        return self._turns

    def _open(self) -> Backend:
        self._home.check()
        if self._backend is None:
            raise RuntimeClosed("this runtime was closed; load the bundle again with PoseRuntime.load")
        return self._backend

    @counted
    def _pace(
        self,
        timesteps: Sequence[int] | None,
        steps: int | None,
        sampler: str | None,
        budget_ms: float | None,
        batches: int = 1,
        encoders: int | None = None,
    ) -> Pace:
        """Return what is meant by timesteps, steps or a budget; raise BudgetError for one that so many batches cannot keep."""
        if budget_ms is None:
            return FixedPace(step_plan(self.bundle.manifest, timesteps, steps, sampler))
        if timesteps is not None or steps is not None:
            raise BudgetError("expected timesteps, a number of steps or a budget, got a budget beside another one. Leave one out")
        self._open()
        return self._budgets.pace(budget_ms, sampler, batches, encoders)

    def _mode(self, mode: str | None) -> str:
        known = checked_mode(mode, self.bundle.manifest.process.kind)
        assert known is not None
        return known

    @counted
    def _estimate(
        self,
        keypoints: Keypoints,
        frame: int | None,
        pace: Pace,
        asked: int,
        mode: str,
        rng: Draws,
        trace: bool,
        mixture: Mixture | None = None,
    ) -> PoseEstimate:
        """Poses of B people; ``frame`` chooses the frame of their windows that is estimated (video encoders)."""
        began = perf_counter_ns()
        with self._lock:
            backend = self._open()
            P = backend.shape.P
            newest = (slice(None),) if frame is None else (slice(None), frame)
            observation, uv, view = observed(keypoints, self.bundle.manifest.process.kind)
            batches = -(-len(uv) // P)
            plan = pace.plan(batches, batches)
            due = pace.deadline(plan, asked)
            request = self._request(uv[newest], keypoints.confidence[newest], plan, due, mode, rng, trace, view, mixture)
            call = Call(backend, self.bundle.manifest, request)
            for people in call.in_batches():
                count = people.stop - people.start
                backend.observation[:count] = observation[people]
                backend.observation[count:] = 0.0
                if backend.base is not None and not trace:
                    call.whole_frame(people)
                    continue
                call.context_ns += timed(backend.encode)
                call.batch(people, backend.xyz[newest], None if backend.features is None else backend.features[newest])
            return call.finish(began)

    def _request(
        self,
        uv: Array,
        confidence: Array,
        plan: StepPlan,
        deadline: Deadline | None,
        mode: str,
        rng: Draws,
        trace: bool,
        view: PersonView | None,
        mixture: Mixture | None,
    ) -> Request:
        draws = None
        if view is not None:
            draws = draw_starts(uv, confidence, view, mixture, self.bundle.manifest.shape.N, rng)
        outside = self._range.outside(uv, confidence, view, draws if mixture is not None else None)
        return Request(uv, confidence, plan, mode, rng, trace, view, draws, deadline, outside, self._non_finite)
