"""Where the reverse process starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.distribution import StartSpread, start_parameters
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.mixtures import Mixture, draw
from diffpose_edge.person import PersonView
from diffpose_edge.skeleton import BONES, ROOT, J

Array = NDArray[np.float32]
# Where all people's draws come from, or where each one's do.
Draws = np.random.Generator | tuple[np.random.Generator, ...]
Seed = int | np.random.Generator | Sequence[np.random.Generator] | None

# Which modes a bundle has, its default first: by the process that its denoiser was trained for.
MODES = {"released": ("released", "noised"), "distribution": ("distribution",)}

# A person with fewer seen joints than this gets no pose: what would be filled in outweighs what was measured.
LEAST_OBSERVED = 9


def checked_mode(mode: str | None, kind: str | None = None) -> str | None:
    """Return ``mode``, or the default of a bundle whose process is of ``kind`` for None.

    Without ``kind`` only the spelling is checked. Raises DiffPoseEdgeError naming the modes that there are.
    """
    known = MODES[kind] if kind else tuple(m for modes in MODES.values() for m in modes)
    if mode is None:
        return known[0] if kind else None
    if mode in known:
        return mode
    if kind and any(mode in modes for modes in MODES.values()):
        made = {"released": "exported from released weights", "distribution": "trained with a start distribution"}[kind]
        raise DiffPoseEdgeError(f"this bundle was {made}: its modes are {', '.join(known)}, not {mode!r}")
    raise DiffPoseEdgeError(f"expected a mode out of {', '.join(known)}, got {mode!r}")


def generator_of(seed: int | np.random.Generator | None) -> np.random.Generator:
    """Return the generator that a seed means: a new one for an int or None, the given one itself for a Generator.

    Raises DiffPoseEdgeError for anything else, a negative number included.
    """
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise DiffPoseEdgeError(f"expected a seed that is a whole number of at least 0, or a numpy Generator, got {seed!r}")
    return np.random.default_rng(int(seed))


def draws_of(seed: Seed, people: int) -> Draws:
    """Return the generator that a seed means (:func:`generator_of`), or, of a sequence of Generators, the one of each of ``people``.

    With generators of their own, people's draws do not depend on who else is there. Raises DiffPoseEdgeError.
    """
    if not isinstance(seed, Sequence):
        return generator_of(seed)
    if len(seed) != people or not all(isinstance(own, np.random.Generator) for own in seed):
        raise DiffPoseEdgeError(f"expected a numpy Generator for each of the {people} people, got {len(seed)}: {seed!r:.80}")
    return tuple(seed)


def normals(rng: Draws, people: slice, shape: tuple[int, ...]) -> Array:
    """Draw standard normal numbers (people, *shape) for a slice of the people, person after person."""
    if isinstance(rng, np.random.Generator):
        return rng.standard_normal((people.stop - people.start, *shape), dtype=np.float32)
    return np.stack([own.standard_normal(shape, dtype=np.float32) for own in rng[people]])


def released_start(uv: Array, xyz: Array, x: Array) -> None:
    """Write the released start into x (P N, 17, 5): u, v as detected, x, y, z from the context, root subtracted.

    uv (P, 17, 2), xyz (P, 17, 3). The N samples of a person are identical.
    """
    persons = len(uv)
    state = x.reshape(persons, -1, J, 5)
    state[..., :2] = uv[:, None]
    np.subtract(xyz[:, None], xyz[:, None, ROOT : ROOT + 1], out=state[..., 2:])


def noise_start(x: Array, e: Array, a_t: float) -> None:
    """Carry a start to the noise level of the first timestep, in place: x = sqrt(a_t) x + sqrt(1 - a_t) e.

    This is DDPM's forward process (Ho et al. 2020, equation 4) on the released schedule, applied to the released start;
    e (P N, 17, 5) is standard normal. It gives N samples that differ. (The released training draws x, y, z so, and scales
    the noise of u, v by the data file's deviations: docs/paper-and-released.md.)
    """
    x *= np.float32(np.sqrt(a_t))
    x += np.float32(np.sqrt(1.0 - a_t)) * e


def balanced_draws(persons: int, N: int, rng: Draws) -> Array:
    """Draw whitened starts (persons, N, 17, 5): standard normal each, but the N draws of a person sum to zero.

    r_n = sqrt(N / (N - 1)) (e_n - mean(e)): every single draw is exactly N(0, 1), and two of them correlate by
    -1 / (N - 1). Where the reverse process is nearly linear in its start, the mean of the N results is then the mean of the
    posterior, without the sampling error of a few draws. N = 1 is a plain draw. Person after person, so that a person's
    draws do not depend on how many come in one batch.
    """
    e = normals(rng, slice(0, persons), (N, J, 5))
    if N == 1:
        return e
    return ((e - e.mean(axis=1, keepdims=True)) * np.float32(np.sqrt(N / (N - 1)))).astype(np.float32)


@dataclass(frozen=True)
class StartDraws:
    """Drawn starts of B people: ``uv`` (B, N, 17, 2) the components' means in the person's frame, ``covariance``
    (B, N, 17, 2, 2) theirs or None, ``confidence`` (B, 17), and the whitened draws ``r`` (B, N, 17, 5).
    """

    uv: Array
    covariance: Array | None
    confidence: Array
    r: Array

    def parameters(self, people: slice, xyz: Array, spread: StartSpread) -> tuple[Array, Array]:
        """Return mu (b, N, 17, 5) and L's entries (b, N, 17, 6) for contexts xyz (b, 17, 3), root-relative."""
        uv = self.uv[people]
        covariance = None if self.covariance is None else self.covariance[people]
        shape = uv.shape[:3]
        confidence = np.broadcast_to(self.confidence[people, None], shape)
        return start_parameters(uv, covariance, confidence, np.broadcast_to(xyz[:, None], (*shape, 3)), spread)


def draw_starts(uv: Array, confidence: Array, view: PersonView, mixture: Mixture | None, N: int, rng: Draws) -> StartDraws:
    """Draw N starts for each of B people from the start distribution H_K (all but x, y, z, which the encoder gives).

    uv (B, 17, 2) in the image, confidence (B, 17), 0 for a joint that nobody saw. Without a mixture every sample starts
    around the keypoints; with one, each joint of each sample around a component drawn with its weight, and a joint that the
    mixture has no opinion about (its own confidence 0) around its keypoint.
    """
    B = len(uv)
    keypoints = view.to_person(np.where(confidence[..., None] > 0, uv, 0.0).astype(np.float32))[:, None]
    if mixture is None:
        return StartDraws(np.broadcast_to(keypoints, (B, N, J, 2)), None, confidence, balanced_draws(B, N, rng))
    assert isinstance(rng, np.random.Generator)  # PoseRuntime has seen to it
    # A generator of their own for the components: the draws around them then follow person after person, as without one.
    components = np.random.default_rng(rng.integers(2**63))
    _, mean, cholesky = draw(mixture, N, components, balanced=True)
    scale = view.scale[:, None, None, None]
    covariance = (cholesky @ np.swapaxes(cholesky, -1, -2) / np.square(scale)[..., None]).astype(np.float32)
    told = (mixture.confidence > 0)[:, None, :, None]
    means = np.where(told, view.to_person(mean.astype(np.float32)), keypoints).astype(np.float32)
    return StartDraws(means, np.where(told[..., None], covariance, 0.0).astype(np.float32), confidence, balanced_draws(B, N, rng))


def fill_missing(uv: Array, observed: NDArray[np.bool_]) -> Array:
    """Return uv (B, 17, 2) with the joints that were not seen placed between their neighbours on the skeleton.

    They take the positions that minimise the squared bone lengths, those that were seen being held fixed: between two
    seen neighbours a joint lies at their mean; a chain's unseen end lies on the last joint seen. Rows with no joint
    seen become zero.
    """
    filled = np.where(observed[..., None], uv, np.float32(0.0)).astype(np.float32, copy=False)
    for b in np.flatnonzero(~observed.all(axis=-1) & observed.any(axis=-1)):
        seen, unseen = observed[b], ~observed[b]
        filled[b, unseen] = np.linalg.solve(_BONE_LAPLACIAN[unseen][:, unseen], -_BONE_LAPLACIAN[unseen][:, seen] @ uv[b, seen])
    return filled


def _bone_laplacian() -> NDArray[np.float64]:
    lap = np.zeros((J, J))
    for i, j in BONES:
        lap[[i, j], [i, j]] += 1.0
        lap[[i, j], [j, i]] -= 1.0
    return lap


_BONE_LAPLACIAN = _bone_laplacian()
