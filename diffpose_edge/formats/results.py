"""What a run over a clip gives, as files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.formats.person_clip import PersonClip
from diffpose_edge.formats.pose_files import NPZ, POSE_FORMATS, put_lines
from diffpose_edge.formats.poses import PoseSequence


def put_results(file: Path, results: Mapping[str, NDArray[Any]], clip: PersonClip, format_name: str, name: str) -> None:
    """Write the results of a clip's frames, arrays (frames, …) by name, into a file that is somebody else's to put in place, and will be
    called ``name``. An npz has all of them; other formats have what :func:`poses_of` takes.
    """
    if format_name != NPZ:
        put_lines(file, POSE_FORMATS[format_name].lines(poses_of(results, clip), name))
        return
    arrays: dict[str, Any] = dict(results)
    with open(file, "wb") as stream:
        np.savez(stream, **arrays)


def poses_of(results: Mapping[str, NDArray[Any]], clip: PersonClip) -> PoseSequence:
    """Return the poses of a clip's frames, in order, with their roots if they were worked out."""
    told = {"covariance": results["covariance"], "observed": results["observed"], "root": results.get("root")}
    told |= {name: results.get(name) for name in ("out_of_range", "non_finite")}
    return PoseSequence(results["joints"], clip.fps, clip.frames, person=clip.person, **told)
