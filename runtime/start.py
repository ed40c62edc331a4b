"""Where the reverse process starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.skeleton import BONES, ROOT, J

Array = NDArray[np.float32]

MODES = ("released", "noised")

# A person with fewer seen joints than this gets no pose: what would be filled in outweighs what was measured.
LEAST_OBSERVED = 9


def checked_mode(mode: str) -> str:
    """Return ``mode``, or raise DiffPoseEdgeError naming the modes that there are."""
    if mode not in MODES:
        raise DiffPoseEdgeError(f"expected a mode out of {', '.join(MODES)}, got {mode!r}")
    return mode


def generator_of(seed: int | np.random.Generator | None) -> np.random.Generator:
    """Return the generator that a seed means: a new one for an int or None, the given one itself for a Generator.

    Raises DiffPoseEdgeError for anything else, a negative number included.
    """
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise DiffPoseEdgeError(f"expected a seed that is a whole number of at least 0, or a numpy Generator, got {seed!r}")
    return np.random.default_rng(int(seed))


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

    This is the forward process that the released weights were trained with (DDPM, Ho et al. 2020, equation 4), applied
    to the released start; e (P N, 17, 5) is standard normal. It gives N samples that differ.
    """
    x *= np.float32(np.sqrt(a_t))
    x += np.float32(np.sqrt(1.0 - a_t)) * e


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
