"""A live view of bodies in Foxglove: a web socket server that its 3D panel connects to. Needs ``foxglove-sdk``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import BridgeError
from diffpose_edge.extras import require
from diffpose_edge.runtime.bridges.plain_messages import BONE_M, COLOURS, JOINT_M, SECOND_NS
from diffpose_edge.runtime.bridges.shapes import bone_ends, ellipsoids
from diffpose_edge.runtime.own_process import Home

if TYPE_CHECKING:
    from foxglove.messages import FrameTransform, SceneEntity, SpherePrimitive, Timestamp

SCENE_TOPIC, TRANSFORMS_TOPIC = "/bodies", "/tf"
# From a camera's axes (x right, y down, z forward) to a robot's (x forward, y left, z up), so that people stand: (x, y, z, w).
UPRIGHT = (-0.5, 0.5, -0.5, 0.5)
# Foxglove deletes what is older than the deletion.
TICK_NS = 1


class FoxgloveView:
    """Owns a server on this machine, and a recording if one is asked for, until ``close()``; use it with ``with``.

    ``port``: 0 is any that is free, see :attr:`port`. Anybody who can reach ``host`` may look: by default this machine alone.
    ``record``: an MCAP file of all that is shown, which appears at ``close()``. ``world``: the name of an upright frame that the bodies'
    camera frame is put into; None where something else tells Foxglove how the camera stands.

    Topics: "/bodies" (foxglove.SceneUpdate), an entity for each body, with its bones as one list of lines, its joints and ellipsoids as
    spheres, and what K, the latency and a deadline made of it as metadata; "/tf" (foxglove.FrameTransforms), ``body_<id>`` at its hip.
    Raises MissingPackage, BridgeError where the port is taken, OutputError where the recording cannot be written.
    """

    def __init__(self, port: int = 8765, *, host: str = "127.0.0.1", record: str | Path | None = None, world: str | None = "world"):
        require("foxglove")
        import foxglove
        from foxglove.channels import FrameTransformsChannel, SceneUpdateChannel

        self._world = world
        self._home = Home("Foxglove view", "open another there, at another port")
        self._visible: set[str] = set()
        self._last_ns = 0
        with ExitStack() as opening:
            # A context of its own: what else in the process logs to Foxglove is not mixed with it.
            # It closes its channels when it goes, so it is kept.
            self._context = context = foxglove.Context()
            if record is not None:
                file = opening.enter_context(atomic_file(record))
                opening.callback(foxglove.open_mcap(file, allow_overwrite=True, context=context).close)
            try:
                self._server = foxglove.start_server(name="DiffPose Edge", host=host, port=port, context=context)
            except (RuntimeError, OverflowError) as err:
                raise BridgeError(f"cannot serve Foxglove at {host}:{port}: {err}; choose another port, or 0 for a free one") from err
            opening.callback(self._server.stop)
            self._scene = SceneUpdateChannel(SCENE_TOPIC, context=context)
            self._transforms = FrameTransformsChannel(TRANSFORMS_TOPIC, context=context)
            self.port: int = self._server.port
            self._opened = opening.pop_all()
            self._closed = False

    def show(self, bodies: Sequence[BodyEstimate]) -> None:
        """Show the bodies of one image in the place of those before; without any, or without their poses, they vanish.

        Joints are where ``placed_joints`` has them: around the camera itself for bodies whose root is not known.
        Raises BridgeError after ``close()``.
        """
        from foxglove.messages import FrameTransforms, SceneEntityDeletion, SceneUpdate

        self._home.check()
        if self._closed:
            raise BridgeError("this Foxglove view was closed; open another")
        stamp_ns = bodies[0].stamp_ns if bodies else self._last_ns + TICK_NS
        entities = {_name(body): _entity(body) for body in bodies if body.found}
        gone = sorted(self._visible - set(entities))
        deletions = [SceneEntityDeletion(timestamp=_time(max(stamp_ns, self._last_ns + TICK_NS)), id=name) for name in gone]
        self._scene.log(SceneUpdate(entities=list(entities.values()), deletions=deletions), log_time=stamp_ns)
        transforms = self._frames(bodies)
        if transforms:
            self._transforms.log(FrameTransforms(transforms=transforms), log_time=stamp_ns)
        self._visible, self._last_ns = set(entities), stamp_ns

    def _frames(self, bodies: Sequence[BodyEstimate]) -> list[FrameTransform]:
        found = [body for body in bodies if body.found]
        frames = [_frame(body.stamp_ns, body.frame_id, _name(body), body.placed_joints[0]) for body in found]
        if self._world is not None:
            cameras = {body.frame_id: body.stamp_ns for body in found}
            frames += [
                _frame(stamp, self._world, camera, np.zeros(3), UPRIGHT) for camera, stamp in cameras.items() if camera != self._world
            ]
        return frames

    def close(self) -> None:
        """Disconnect everybody, and finish the recording; a second call does nothing. In a forked process it does nothing."""
        if not self._home.here:
            return
        self._closed = True
        self._opened.close()

    def __reduce__(self) -> NoReturn:
        self._home.refuse_to_leave()

    def __enter__(self) -> FoxgloveView:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        # What was seen before something went wrong is worth having: the recording is finished then, too.
        self.close()


def _name(body: BodyEstimate) -> str:
    return f"body_{body.body_id}"


def _time(stamp_ns: int) -> Timestamp:
    from foxglove.messages import Timestamp

    return Timestamp(sec=stamp_ns // SECOND_NS, nsec=stamp_ns % SECOND_NS)


def _frame(
    stamp_ns: int, parent: str, child: str, xyz: NDArray[Any], rotation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
) -> FrameTransform:
    from foxglove.messages import FrameTransform, Quaternion, Vector3

    x, y, z, w = rotation
    return FrameTransform(
        timestamp=_time(stamp_ns),
        parent_frame_id=parent,
        child_frame_id=child,
        translation=Vector3(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2])),
        rotation=Quaternion(x=x, y=y, z=z, w=w),
    )


def _entity(body: BodyEstimate) -> SceneEntity:
    """Return the body as Foxglove draws it: 16 bones as one list of lines, 17 joints and at most 17 ellipsoids as spheres."""
    from foxglove.messages import Color, KeyValuePair, LinePrimitive, LinePrimitiveLineType, Point3, SceneEntity

    r, g, b = COLOURS[body.body_id % len(COLOURS)]
    solid, clear = Color(r=r, g=g, b=b, a=1.0), Color(r=r, g=g, b=b, a=0.25)
    ends = [Point3(x=float(x), y=float(y), z=float(z)) for x, y, z in bone_ends(body)]
    spheres = [_sphere(joint, (JOINT_M,) * 3, (0.0, 0.0, 0.0, 1.0), solid) for joint in body.placed_joints]
    spheres += [_sphere(each.centre, each.diameters, each.orientation, clear) for each in ellipsoids(body)]
    told = {"steps": body.steps, "truncated": str(body.truncated).lower(), "latency_ms": f"{body.latency_ns / 1e6:.2f}"}
    told |= {name: "true" for name in ("out_of_range", "non_finite") if getattr(body, name)}
    return SceneEntity(
        timestamp=_time(body.stamp_ns),
        frame_id=body.frame_id,
        id=_name(body),
        metadata=[KeyValuePair(key=key, value=str(value)) for key, value in told.items()],
        lines=[LinePrimitive(type=LinePrimitiveLineType.LineList, thickness=BONE_M, points=ends, color=solid)],
        spheres=spheres,
    )


def _sphere(centre: NDArray[Any], diameters: Any, orientation: Any, colour: Any) -> SpherePrimitive:
    from foxglove.messages import Pose, Quaternion, SpherePrimitive, Vector3

    (x, y, z), (dx, dy, dz), (qx, qy, qz, qw) = ([float(v) for v in values] for values in (centre, diameters, orientation))
    pose = Pose(position=Vector3(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    return SpherePrimitive(pose=pose, size=Vector3(x=dx, y=dy, z=dz), color=colour)
