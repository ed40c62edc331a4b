"""People to translate, and keypoints as a message's poses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from diffpose_edge.body import BodyEstimate


def body_of(seed: int, body_id: int = 0, stamp_ns: int = 1_700_000_000_123_456_789, **fields: object) -> BodyEstimate:
    """A body with a pose and a covariance for every joint but the hip, which errs by nothing."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(17, 3)).astype(np.float32)
    joints[0] = 0.0
    factors = rng.normal(scale=0.05, size=(17, 3, 3))
    covariance = (factors @ factors.transpose(0, 2, 1)).astype(np.float32)
    covariance[0] = 0.0
    given = {"joints": joints, "covariance": covariance, "observed": np.ones(17, bool), **fields}
    return BodyEstimate(stamp_ns, "camera", body_id, **given)  # type: ignore[arg-type]


def message_of(numbers: np.ndarray, sec: int = 5, nanosec: int = 6, frame_id: str = "camera") -> SimpleNamespace:
    """A PoseArray of numbers (…, 3) in plain classes."""
    poses = [SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=z)) for x, y, z in np.reshape(numbers, (-1, 3)).tolist()]
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id), poses=poses)


def people_of(seed: int, B: int) -> np.ndarray:
    """Keypoints (B, 17, 3): u, v and a confidence, a few joints not seen."""
    rng = np.random.default_rng(seed)
    people = np.concatenate([rng.uniform(-0.5, 0.5, (B, 17, 2)), rng.uniform(0.3, 1.0, (B, 17, 1))], axis=-1)
    people[:, 3, 2] = 0.0
    return people
