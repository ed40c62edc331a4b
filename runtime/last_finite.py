"""What becomes of a walk that met a number which is none: an error that says where, or the last finite state's pose.

Only the final state is looked at. A step is x_s = c0 x_t + c1 out + c2 previous, entry by entry, and what is not finite stays so under
multiplication and addition: NaN or inf in any state, or in what the network said at any step, is in the final state too. The way
there is walked a second time only where something is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError, NumericalError
from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.deadline import cut_short

if TYPE_CHECKING:
    from diffpose_edge.runtime.call import Call

NON_FINITE = ("raise", "last")
# What measures how wrong a graph is wants its numbers as they are: no choice of a user's, and marked like the others.
AS_IT_IS = "as it is"
# A state or an encoder's answer as long as this, as a vector, is no number either: far beyond any pose, and still so small that what is
# made of it, covariances above all, is finite in float32.
LARGEST = 1e12
_LARGEST_SQUARED = np.float32(LARGEST**2)


def checked_non_finite(choice: str) -> str:
    """Return ``choice`` if it is one of NON_FINITE, or AS_IT_IS; else raise DiffPoseEdgeError."""
    if choice != AS_IT_IS and choice not in NON_FINITE:
        raise DiffPoseEdgeError(f"expected non_finite out of {', '.join(NON_FINITE)}, got {choice!r}")
    return choice


def finite(array: Array) -> bool:
    """Tell whether all of an array is finite, and no longer than LARGEST: one pass, since what is not finite is in the sum of squares."""
    return bool(np.vdot(array, array) <= _LARGEST_SQUARED)


def finite_rows(array: Array) -> NDArray[np.bool_]:
    """Tell for each row (n, …) whether it is :func:`finite`: (n,)."""
    return np.array([finite(row) for row in array], np.bool_)


def finite_context(call: Call, people: slice, xyz: Array, features: Array | None) -> tuple[Array, Array | None, NDArray[np.bool_]]:
    """Return the contexts of a batch, xyz (P, 17, 3) and features (P, 17, C'), with zeros in the place of people for whom they are not
    finite, and which of the b ``people`` (b,) lost theirs by it; or raise NumericalError, as the request asks.
    """
    count = people.stop - people.start
    if call.request.non_finite == AS_IT_IS or (finite(xyz[:count]) and (features is None or finite(features[:count]))):
        return xyz, features, np.zeros(count, np.bool_)
    kept, known = finite_rows(xyz), call.known(people)
    call.without_context[people] = known & ~kept[:count]
    if features is not None:
        told = finite_rows(features)
        features, kept = np.where(told[:, None, None], features, np.float32(0.0)), kept & told
    lost = known & ~kept[:count]
    if lost.any() and call.request.non_finite == "raise":
        raise _context_error(people.start + int(np.argmax(lost)))
    return np.where(finite_rows(xyz)[:, None, None], xyz, np.float32(0.0)), features, lost


def mended(call: Call, people: slice, final: Array, walked: int, xyz: Array, features: Array | None, lost: NDArray[np.bool_]) -> Array:
    """Return final states (b N, 17, 5) of the b ``people`` of a batch without those that are not finite, and note in the ``call`` how many
    steps of their walks they mean; or raise NumericalError, as the request asks.

    ``walked``: the steps that this batch walked; xyz, features: what it was walked from; ``lost`` (b,): people of whom the encoder said
    nothing finite, and who therefore stay at the start. The others are walked again, step by step. A person whose second walk is
    finite from end to end keeps its result: what went wrong was not in the numbers.
    """
    count, N, plan = people.stop - people.start, call.N, call.request.plan
    final = final[: count * N].copy()  # the buffers are walked again
    own = final.reshape(count, N, *final.shape[1:])
    wrong = call.known(people) & (~finite_rows(own) | lost)
    if call.request.non_finite == AS_IT_IS:
        call.non_finite[people] |= wrong
        return final
    if not wrong.any():
        return final
    manifest = call.manifest
    whole = plan if walked in (0, call.K) else cut_short(manifest, plan, walked)
    states = call.states_again(people, xyz, features, whole) if walked else None
    if states is not None:
        own_states = states[:, : count * N].reshape(len(states), count, N, *final.shape[1:])
    # By how many steps they walked, what the walks of a batch end at.
    ends: dict[int, Array] = {}
    for b in np.flatnonzero(wrong):
        m = 0
        if states is not None and not lost[b]:
            m = _finite_steps(own_states[:, b])
            if call.request.non_finite == "raise":
                raise _error(people.start + int(b), m, plan.timesteps[:walked], own_states[:, b])
            if m == walked:
                own[b] = own_states[-1, b]
                continue
        while m > 0:
            if m not in ends:
                ends[m] = call.states_again(people, xyz, features, cut_short(manifest, plan, m))[-1].copy()
            end = ends[m][: count * N].reshape(own.shape)[b]
            if finite(end):
                own[b] = end
                break
            m -= 1
        if m == 0:
            own[b] = call.unwalked(people, xyz)[: count * N].reshape(own.shape)[b]
        call.walked[people.start + b] = m
        if call.batch_states is not None:
            call.batch_states[m + 1 :, b * N : (b + 1) * N] = np.nan
    call.non_finite[people] |= wrong
    return final


def _context_error(person: int) -> NumericalError:
    return NumericalError(
        f"the context encoder's answer for person {person} is no number (NaN, inf, or beyond {LARGEST:g}), though what it was shown is. "
        + _REMEDY,
        person,
    )


_REMEDY = (
    "Run the bundle in fp32 if it was in fp16 or int8; check it: diffpose-edge verify. To go on with the last finite state instead: "
    "non_finite='last'"
)


def _finite_steps(states: Array) -> int:
    """Return after how many steps the states (K + 1, N, 17, 5) of a person were finite for the last time, without a gap before."""
    ok = finite_rows(states[1:])
    return len(ok) if ok.all() else int(np.argmin(ok))


def _error(person: int, m: int, timesteps: tuple[int, ...], states: Array) -> NumericalError:
    if m == len(timesteps):
        why = (
            f"the pose of person {person} is no number, but a second walk from the same start is finite in all {m} steps: the machine erred"
        )
        return NumericalError(f"{why}. Test its memory; if it comes again, report it with the device and backend", person)
    sample = int(np.argmin(finite_rows(states[m + 1])))
    return NumericalError(
        f"step {m + 1} of {len(timesteps)} (timestep {timesteps[m]}) made a state of person {person}, sample {sample}, that is no number "
        f"(NaN, inf, or beyond {LARGEST:g}). {_REMEDY}",
        person,
        m,
        timesteps[m],
        sample,
    )
