"""The node's parameters: names, defaults, ranges, and what is refused. Nothing of ROS is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.bridges.incoming import UNITS
from diffpose_edge.runtime.bridges.people_source import SourceSettings
from diffpose_edge.runtime.last_finite import NON_FINITE
from diffpose_edge.runtime.loading import BACKENDS, MOST_THREADS

RELIABILITY = ("best_effort", "reliable")
INPUTS = ("pose_array", "skeleton2d")


def _parameter(
    default: Any, told: str, *, within: tuple[float, float] | None = None, of: tuple[str, ...] | None = None, needed: bool = False
) -> Any:
    """A field with a description, and the range or the choices of its value."""
    return field(default=default, metadata={"told": told, "within": within, "of": of, "needed": needed})


@dataclass(frozen=True)
class NodeSettings:
    """Every parameter of the node, by its name. They are taken when the node is configured."""

    bundle: str = _parameter("", "Folder of the bundle, which diffpose-edge export made.", needed=True)
    backend: str = _parameter("onnxruntime", "What the graphs are run with.", of=BACKENDS)
    precision: str = _parameter("fp32", "Precision of the graphs, as far as the bundle has it.", of=("fp32", "fp16", "int8"))
    threads: int = _parameter(0, "Cores that may be used on the CPU; 0: all.", within=(0, MOST_THREADS))
    steps: int = _parameter(0, "Diffusion steps, K; 0: the bundle's own timesteps.", within=(0, 1000))
    seed: int = _parameter(0, "Seed of the N draws, the same for every frame.", within=(0, 2**31 - 1))
    non_finite: str = _parameter("raise", "A result that is no number ends the node, or the last finite state answers.", of=NON_FINITE)
    input: str = _parameter("pose_array", "Type of the keypoints' messages: geometry_msgs/PoseArray or hri_msgs/Skeleton2D.", of=INPUTS)
    units: str = _parameter("pixels", "Units of a PoseArray's x and y; 'image': 0..1 over its width and height.", of=UNITS)
    camera_frame: str = _parameter("", "Frame that keypoints must be stamped with; empty: that of the first message.")
    image_width: int = _parameter(0, "Width of the image in pixels; 0: CameraInfo tells.", within=(0, 65536))
    image_height: int = _parameter(0, "Height of the image in pixels; 0: CameraInfo tells.", within=(0, 65536))
    max_people: int = _parameter(32, "A message of more people is refused.", within=(1, 4096))
    queue_length: int = _parameter(1, "Frames that may wait while one is computed; 1: the newest alone.", within=(1, 1000))
    keypoints_topic: str = _parameter("keypoints", "geometry_msgs/PoseArray in.", needed=True)
    skeleton_topics: tuple[str, ...] = _parameter(("skeleton2d",), "hri_msgs/Skeleton2D in, a topic for each body: 0, 1, ….")
    camera_info_topic: str = _parameter("camera_info", "sensor_msgs/CameraInfo in.", needed=True)
    poses_topic: str = _parameter("~/poses", "geometry_msgs/PoseArray out.", needed=True)
    joints_topic: str = _parameter("~/joints", "sensor_msgs/PointCloud2 out, with ids and covariances; empty: none.")
    markers_topic: str = _parameter("~/markers", "visualization_msgs/MarkerArray out; empty: none.")
    tf_topic: str = _parameter("/tf", "tf2_msgs/TFMessage out, where tf2_msgs is installed; empty: none.")
    tf_unplaced: bool = _parameter(False, "Also frames of people whose place is not known, with the hip at the camera.")
    input_reliability: str = _parameter("best_effort", "QoS of what comes in; best_effort is that of sensor data.", of=RELIABILITY)
    input_depth: int = _parameter(5, "QoS history of what comes in.", within=(1, 1000))
    output_reliability: str = _parameter("reliable", "QoS of what goes out.", of=RELIABILITY)
    output_depth: int = _parameter(10, "QoS history of what goes out.", within=(1, 1000))
    ellipsoid_level: float = _parameter(0.9, "Share of a Gaussian that an ellipsoid holds.", within=(0.01, 0.999))
    marker_lifetime: float = _parameter(0.5, "Seconds after which markers go that are not renewed.", within=(0.01, 60.0))
    diagnostics_period: float = _parameter(1.0, "Seconds between two diagnostics.", within=(0.05, 60.0))
    metrics_port: int = _parameter(0, "Port of this machine (127.0.0.1) for Prometheus' metrics; 0: none.", within=(0, 65535))
    autostart: bool = _parameter(True, "Configure and activate at the start; false: a lifecycle manager does.")

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The image's size (w, h) as the parameters tell it, or None."""
        return (self.image_width, self.image_height) if self.image_width else None

    @property
    def source(self) -> SourceSettings:
        """What the people's source is opened with."""
        return SourceSettings(
            self.bundle, self.backend, self.precision, self.threads or None, self.steps or None, self.seed, self.non_finite
        )


PARAMETERS = {parameter.name: parameter for parameter in fields(NodeSettings)}


def default_of(name: str) -> Any:
    """Return the default of a parameter, a tuple as a list."""
    default = PARAMETERS[name].default
    return list(default) if isinstance(default, tuple) else default


def refusal_of(name: str, value: Any) -> str | None:
    """Say why a parameter cannot have this value; None where it can, and for names of others."""
    if name not in PARAMETERS:
        return None
    metadata = PARAMETERS[name].metadata
    if metadata["of"] is not None and value not in metadata["of"]:
        return f"expected {name} out of {', '.join(metadata['of'])}, got {value!r}"
    if metadata["within"] is not None and not metadata["within"][0] <= value <= metadata["within"][1]:
        return f"expected {name} within {metadata['within'][0]:g}..{metadata['within'][1]:g}, got {value!r}"
    return None


def checked_settings(values: Mapping[str, Any]) -> NodeSettings:
    """Return the settings of parameter values by name. Raises DiffPoseEdgeError for a value, or a combination, that cannot be."""
    taken: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    settings = NodeSettings(**taken)
    for name, value in values.items():
        refusal = refusal_of(name, value)
        if refusal is None and PARAMETERS[name].metadata["needed"] and not value:
            refusal = f"expected the parameter {name}: {PARAMETERS[name].metadata['told']} It is empty"
        if refusal is not None:
            raise DiffPoseEdgeError(refusal)
    if (settings.image_width == 0) != (settings.image_height == 0):
        raise DiffPoseEdgeError(
            f"expected image_width and image_height both, or neither, got {settings.image_width} x {settings.image_height}"
        )
    topics = settings.skeleton_topics
    if settings.input == "skeleton2d" and (not topics or not all(topics) or len(set(topics)) < len(topics)):
        raise DiffPoseEdgeError(f"expected skeleton_topics as different topics, one for each body, got {list(topics)}")
    return settings
