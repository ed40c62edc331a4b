"""A camera that is known: its focal lengths, its centre and how its lens bends, from points in metres to pixels and back to rays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.arrays import real_array
from diffpose_edge.distortion import MODELS, bent, limit_of, straightened
from diffpose_edge.errors import CameraError
from diffpose_edge.keypoints import denormalise, normalise_pixels

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """The intrinsics of a camera. Camera axes: x right, y down, z forward.

    ``width``, ``height`` of the image and ``fx``, ``fy``, ``cx``, ``cy`` are in pixels. ``distortion`` names a model as ROS's
    CameraInfo does, and ``coefficients`` has its numbers: "none"; "plumb_bob", k1 k2 p1 p2 and, if known, k3; "rational_polynomial",
    k1 k2 p1 p2 k3 k4 k5 k6; "equidistant" (fisheye), k1 k2 k3 k4. :mod:`diffpose_edge.distortion` has the formulas.

    Raises CameraError for a size or a focal length that is not positive, numbers that are not finite, an unknown model, and
    coefficients that it does not have.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: str = "none"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("width", "height", "fx", "fy"):
            value = _number(getattr(self, name), name)
            if not value > 0:
                raise CameraError(f"expected {name} in pixels, greater than zero, got {value:g}")
            object.__setattr__(self, name, int(value) if name in ("width", "height") else value)
        for name in ("cx", "cy"):
            object.__setattr__(self, name, _number(getattr(self, name), name))
        if self.distortion not in MODELS:
            raise CameraError(f"unknown distortion model {self.distortion!r}; expected one of {', '.join(MODELS)}")
        try:
            coefficients = tuple(_number(c, "a distortion coefficient") for c in self.coefficients)
        except TypeError:
            raise CameraError(f"expected the distortion coefficients as numbers in a row, got {self.coefficients!r}") from None
        if len(coefficients) not in MODELS[self.distortion]:
            wanted = " or ".join(map(str, MODELS[self.distortion]))
            raise CameraError(
                f"expected {wanted} distortion coefficients, which the model {self.distortion!r} takes, got {len(coefficients)}"
            )
        object.__setattr__(self, "coefficients", coefficients)

    @classmethod
    def from_fov(cls, width: int, height: int, horizontal_degrees: float) -> Camera:
        """Guess a camera without distortion from its horizontal field of view, degrees, its centre in the image's middle.

        What is wrong with the focal length is wrong with every distance: f 10 % too long, people 10 % too far. Raises CameraError.
        """
        angle = _number(horizontal_degrees, "the field of view")
        if not 0 < angle < 180:
            raise CameraError(f"expected a horizontal field of view between 0 and 180 degrees, got {angle:g}")
        f = _number(width, "width") / 2 / math.tan(math.radians(angle) / 2)
        return cls(width, height, f, f, _number(width, "width") / 2, _number(height, "height") / 2)

    @property
    def image_size(self) -> tuple[int, int]:
        """(w, h), pixels."""
        return self.width, self.height

    @cached_property
    def limit(self) -> float:
        """Up to where the distortion model is one to one: see :func:`diffpose_edge.distortion.limit_of`."""
        return limit_of(self.distortion, self.coefficients)

    def project(self, points: ArrayLike) -> Array:
        """Map points (…, 3) in camera axes, metres, to pixels (…, 2).

        NaN for what the camera cannot see: behind it, or beyond the angle up to which its distortion model is one to one. Raises
        CameraError for another shape.
        """
        array = _points(points)
        plane, _ = bent(self.distortion, self.coefficients, np.where(self.sees(array)[..., None], array, np.nan))
        return plane * (self.fx, self.fy) + (self.cx, self.cy)

    def derivative(self, points: ArrayLike) -> Array:
        """Return how pixels move with points (…, 3): (…, 2, 3), pixels per metre; NaN where :meth:`project` is."""
        array = _points(points)
        _, d = bent(self.distortion, self.coefficients, np.where(self.sees(array)[..., None], array, np.nan))
        return d * np.array([[self.fx], [self.fy]])

    def sees(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Return for points (…, 3) whether the model projects them, (…); the image's borders do not count."""
        array = _points(points)
        rho, z = np.hypot(array[..., 0], array[..., 1]), array[..., 2]
        if self.distortion == "equidistant":
            return np.isfinite(rho) & (rho + np.abs(z) > 0) & (np.arctan2(rho, z) <= self.limit)
        forward: NDArray[np.bool_] = np.isfinite(rho) & (z > 0)
        return forward if math.isinf(self.limit) else forward & (rho <= self.limit * z)

    def rays(self, pixels: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Return the rays (…, 3), of length 1, on which pixels (…, 2) lie, and for which of them there is one (…); NaN elsewhere.

        Raises CameraError for another shape.
        """
        array = real_array(pixels, "pixels", CameraError)
        if array.shape[-1:] != (2,):
            raise CameraError(f"expected pixels of shape (…, 2), got {array.shape}")
        plane = (array - (self.cx, self.cy)) / (self.fx, self.fy)
        return straightened(self.distortion, self.coefficients, self.limit, plane)

    def undistorted(self, pixels: ArrayLike) -> Array:
        """Return the rays (…, 3) of pixels (…, 2): the inverse of :meth:`project`, up to the distance, which a pixel does not tell.

        Raises CameraError where there is none: for pixels that are not finite, or so far outside that no direction leads there.
        """
        rays, good = self.rays(pixels)
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            where = "" if not at else f" [{', '.join(map(str, at))}]"
            raise CameraError(
                f"pixel{where} {np.asarray(pixels, np.float64)[at].tolist()} has no ray: the {self.distortion} model reaches it from no "
                f"direction. Is it a pixel of this {self.width}x{self.height} camera, and are the coefficients in the model's order?"
            )
        return rays

    def normalised(self, pixels: ArrayLike) -> Array:
        """Pixels (…, 2) → u, v as the networks take them: :func:`diffpose_edge.keypoints.normalise_pixels`."""
        return normalise_pixels(pixels, self.image_size)

    def pixels(self, uv: ArrayLike) -> Array:
        """Normalised u, v (…, 2) → pixels of this camera."""
        return denormalise(uv, self.image_size)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"expected {name} as a number, got {str(value)[:40]!r}") from None
    if not math.isfinite(number):
        raise CameraError(f"expected {name} as a finite number, got {number}")
    return number


def _points(points: ArrayLike) -> Array:
    array = real_array(points, "points", CameraError)
    if array.shape[-1:] != (3,):
        raise CameraError(f"expected points of shape (…, 3), metres in camera axes, got {array.shape}")
    return array
