"""The page: template, style, scripts, libraries and data in one HTML file that asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import diffpose_edge
from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import ViewError
from diffpose_edge.extras import require
from diffpose_edge.skeleton import BONES, JOINTS
from diffpose_edge.uncertainty import chi2_3_quantile
from diffpose_edge.viewer.clip_result import ClipResult
from diffpose_edge.viewer.packing import Packing, principal_axes

# In the order in which they are run: each uses those before it.
SCRIPTS = ("data", "player", "figure", "stage", "picture", "charts", "joints", "main")
# Nearly four minutes at 30 Hz with N = 5. A page of 19 MB took half a minute to open, on two cores that had other work besides.
MOST_BYTES = 8_000_000
# The shares of the truth that ellipsoids are drawn for.
LEVELS = (0.5, 0.9)
MILLIMETRE = 1e-3
# What times are whole multiples of: 32 bits of them are 59 hours.
TIME_S = 1e-4


def save_view(result: ClipResult, path: str | Path, title: str = "DiffPose result", subtitle: str = "") -> None:
    """Write a result as an HTML file. Raises OutputError, ViewError, MissingPackage."""
    content = viewer_html(result, title, subtitle)
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")


def viewer_html(result: ClipResult, title: str = "DiffPose result", subtitle: str = "") -> str:
    """Return a page that plays a result: 2D input, 3D pose with samples and ellipsoids, uncertainty and latency over time.

    ``title`` and ``subtitle`` are text, whatever is in them. Numbers in the page are rounded to 0.1 mm (coarser only where something
    lies more than 3.2 m from the hip), a ten-thousandth of half the image's width, and 0.01 ms. Raises ViewError for more than
    MOST_BYTES of them, MissingPackage.
    """
    require("jinja2")
    import jinja2
    from markupsafe import Markup

    packing = _packed(result)
    if packing.size > MOST_BYTES:
        raise ViewError(_too_many(result, packing.size))
    texts = files("diffpose_edge.viewer")
    libraries = (texts / "libraries" / "libraries.min.js").read_text(encoding="utf-8")
    own = "\n".join((texts / "page" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    # One scope for all of them, and none of their names in the window.
    script = f'"use strict";\n(() => {{\n{own}\n}})();\n'
    style = "\n".join((texts / where / name).read_text(encoding="utf-8") for where, name in STYLES)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((texts / "page" / "viewer.html.j2").read_text(encoding="utf-8")).render(
        title=title,
        subtitle=subtitle,
        notes=result.notes,
        facts=_facts(result),
        policy=_policy(scripts=(libraries, script), style=style),
        libraries=Markup(libraries),
        script=Markup(script),
        style=Markup(style),
        meta=_meta(result, packing),
        data=packing.base64(),
        version=diffpose_edge.__version__,
    )


STYLES = (("libraries", "uPlot.min.css"), ("page", "viewer.css"))


def _policy(scripts: tuple[str, ...], style: str) -> str:
    """Return a content security policy under which these scripts and this style run, and nothing is loaded, sent or evaluated."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(source(text) for text in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src {source(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def _packed(result: ClipResult) -> Packing:
    packing = Packing()
    packing.add_whole("times", np.rint(np.asarray(result.times_s) / TIME_S), TIME_S)
    packing.add_whole("numbers", np.arange(len(result)) if result.frame_numbers is None else result.frame_numbers)
    for name in ("joints", "context", "samples", "root"):
        array = getattr(result, name)
        if array is not None:
            packing.add_numbers(name, array, 0.1 * MILLIMETRE)
    if result.covariance is not None and np.isfinite(result.covariance).any():
        packing.add_numbers("axes", principal_axes(result.covariance), 0.1 * MILLIMETRE)
    if result.keypoints is not None:
        packing.add_numbers("uv", result.keypoints.uv, 1e-4)
        packing.add_shares("confidence", result.keypoints.confidence)
    elif result.observed is not None:
        packing.add_shares("confidence", result.observed.astype(np.float64))
    for name in ("step_ms", "call_ms"):
        array = getattr(result, name)
        if array is not None and np.isfinite(array).any():
            packing.add_numbers(name, array, 0.01)
    if result.call_frames is not None:
        packing.add_whole("call_frames", result.call_frames)
    return packing


def _meta(result: ClipResult, packing: Packing) -> dict[str, Any]:
    size = result.image_size
    return {
        "frames": len(result),
        "joints": [name.replace("_", " ") for name in JOINTS],
        "bones": [list(bone) for bone in BONES],
        "arrays": packing.index,
        "levels": [{"share": level, "radius": chi2_3_quantile(level) ** 0.5} for level in LEVELS],
        "graded": result.keypoints is not None,
        "image": None if size is None else list(size),
    }


def _facts(result: ClipResult) -> list[str]:
    """Return what the head of the page says of the clip."""
    frames, posed, seconds = len(result), int(result.posed.sum()), float(result.times_s[-1] - result.times_s[0])
    facts = [f"{frames} frames"]
    if frames > 1:
        facts[0] += f" in {seconds:.1f} s"
    if posed < frames:
        facts.append(f"{frames - posed} without a pose")
    if result.samples is not None:
        facts.append(f"N = {result.samples.shape[1]} samples")
    if result.step_ms is not None:
        facts.append(f"K = {result.step_ms.shape[1]} steps")
    return facts


def _too_many(result: ClipResult, size: int) -> str:
    N = 0 if result.samples is None else result.samples.shape[1]
    every = -(-size // MOST_BYTES)
    held = len(result) * MOST_BYTES // size
    # A sample of a frame is 17 joints of three 16 bit numbers. Fewer of them are no way out where the rest alone is too much.
    enough = N + (MOST_BYTES - size) // (len(result) * 17 * 3 * 2)
    fewer = f", or fewer samples (--samples {enough})" if enough > 0 else ""
    return (
        f"{len(result)} frames with N = {N} samples are {size / 1e6:.3g} MB of numbers, more than the {MOST_BYTES / 1e6:.3g} MB that "
        f"a page holds. Show one frame in {every} (--every {every}), a part of the clip (--last {held}){fewer}"
    )
