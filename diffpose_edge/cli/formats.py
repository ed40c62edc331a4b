"""``diffpose-edge formats``"""

from __future__ import annotations

from rich.table import Table

from diffpose_edge.cli.terminal import out
from diffpose_edge.formats.pose_files import NPZ, POSE_FORMATS
from diffpose_edge.formats.registry import KEYPOINT_FORMATS


def formats() -> None:
    """List the formats of keypoints that 'run' reads and of poses that it writes."""
    keypoints = Table("name", "what", "layout", title="2D keypoints, read (--format; recognised without it) and written")
    for form in KEYPOINT_FORMATS.values():
        keypoints.add_row(form.name, form.what, ", ".join(layout.name for layout in form.layouts))
    poses = Table("name", "what", "needs --fps", title="3D poses, written (by the suffix of --out, or --out-format)")
    poses.add_row(NPZ, "arrays: joints, context, samples, covariance, observed", "no")
    for result in POSE_FORMATS.values():
        poses.add_row(result.name, result.what, "yes" if result.needs_rate else "no")
    out.print(keypoints)
    out.print(poses)
