"""What a causal video encoder remembers: the keys and values of past frames, in fixed buffers that its graph reads in place.

Each person has a ring of F - 1 slots in every temporal layer. The graph is told how old the frame in each slot is and finds the bias
of that age by itself, so that nothing is ever moved: a frame's keys and values are written once, and the slot of the oldest is
written over. A slot without a frame has the age F, at which the graph gives it no weight at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.causal_io import AGES, cache_io
from diffpose_edge.config import CausalConfig
from diffpose_edge.runtime.last_finite import finite

Array = NDArray[np.float32]


class FrameCaches:
    """The rings of P people. ``taken`` are the graph's inputs and ``given`` its outputs, by name
    (:func:`diffpose_edge.causal_io.cache_io`): the same arrays for as long as it lives.
    """

    def __init__(self, config: CausalConfig, P: int):
        self.frames, self.layers = config.frames, config.depth
        taken, given = cache_io(config, P)
        self.taken = {name: np.zeros(shape, np.float32) for name, shape in taken.items()}
        self.given = {name: np.zeros(shape, np.float32) for name, shape in given.items()}
        self.ages: Array = self.taken[AGES]
        self.ages[...] = config.frames
        # Frames that each person's ring was given: the next one goes into slot stored % (F - 1).
        self.stored: NDArray[np.int64] = np.zeros(P, np.int64)

    def store(self, person: int) -> None:
        """Put what the graph has just given of a person's frame into their ring: with the next frame it is one frame old.

        What is not finite would stay for F frames: such a frame passes as one in which the person was not seen.
        """
        if not all(finite(given[person]) for given in self.given.values()):
            self.skip(person)
            return
        slot = self.slot_of(person)
        for i in range(self.layers):
            self.taken[f"keys{i}"][person, ..., slot] = self.given[f"key{i}"][person]
            self.taken[f"values{i}"][person, :, :, slot] = self.given[f"value{i}"][person]
        self.skip(person)
        self.ages[person, slot] = 1.0
        self.stored[person] += 1

    def slot_of(self, person: int) -> int:
        """Return the slot that a person's next frame is put into."""
        return int(self.stored[person] % (self.frames - 1))

    def skip(self, person: int) -> None:
        """Let a frame pass in which the person was not seen: what is remembered of them grows older."""
        np.minimum(self.ages[person] + 1.0, self.frames, out=self.ages[person])

    def reset(self, person: int) -> None:
        """Forget a person, to the last bit: what follows is what follows on a start from nothing."""
        for name in self.taken:
            self.taken[name][person] = 0.0
        self.ages[person] = self.frames
        self.stored[person] = 0
