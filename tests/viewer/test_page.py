"""The page as text: it is whole, holds the result's numbers, and asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import ViewError
from diffpose_edge.uncertainty import spread
from diffpose_edge.viewer import ClipResult, viewer_html
from diffpose_edge.viewer.clip_result import thinned, times_of

from .clips_to_show import BLANK, arrays, full

VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """Reads a page; refuses tags that are not closed where they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.blocks: dict[str, str] = {}
        self.text = ""
        self._id = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        self._id = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if where in self.inline and not self._id:
            self.inline[where].append(data)
        elif where == "script":
            self.blocks[self._id] = data
        else:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, at, value in self.attributes if at == name]


def decoded(page: Page) -> dict[str, Any]:
    """The arrays of a page, read as the format says and not as the page's own script does."""
    content, kinds = base64.b64decode(page.blocks["numbers"]), {"i2": "<i2", "i4": "<i4", "u1": "u1"}
    found = {}
    for name, at in json.loads(page.blocks["meta"])["arrays"].items():
        size = int(np.prod(at["shape"], dtype=int))
        counted = np.frombuffer(content, kinds[at["type"]], count=size, offset=at["at"]).reshape(at["shape"])
        missing = counted == -32768 if at["type"] == "i2" else np.zeros(counted.shape, bool)
        found[name] = np.where(missing, np.nan, counted * at["worth"])
    return found


@pytest.fixture(scope="module")
def result() -> ClipResult:
    return full()


@pytest.fixture(scope="module")
def text(result: ClipResult) -> str:
    return viewer_html(result, "A walk")


def test_the_page_asks_for_nothing_from_elsewhere(text: str) -> None:
    page = Page(text)
    assert page.values("src") == []
    assert sorted(page.values("href")) == ["#play", "data:,"]
    # The one address in it is the name of a namespace, which nobody opens.
    assert set(re.findall(r"(?:https?|wss?|ftp)://[^\s\"'`<>)]*", text)) == {"http://www.w3.org/1999/xhtml"}
    assert not re.search(r"@import|url\(|\bimport\(|importScripts|EventSource|WebSocket|sendBeacon", text)


def test_its_policy_lets_its_own_scripts_and_style_run_and_nothing_else(text: str) -> None:
    page = Page(text)
    (policy,) = [value for tag, name, value in page.attributes if tag == "meta" and name == "content" and "default-src" in value]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    for kind in ("script", "style"):
        inline = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in page.inline[kind]]
        assert rules[f"{kind}-src"] == inline
    assert "unsafe" not in policy
    assert page.values("style") == []
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_the_numbers_are_the_results(result: ClipResult, text: str) -> None:
    found = decoded(Page(text))
    tenth_mm = 0.505e-4
    for name in ("joints", "samples", "context", "root"):
        np.testing.assert_allclose(found[name], getattr(result, name), rtol=0, atol=tenth_mm)
    assert np.isnan(found["joints"][BLANK]).all()
    assert np.isfinite(found["joints"]).sum() == 11 * 17 * 3
    axes = found["axes"]
    deviations = np.sqrt((axes**2).sum(axis=(-2, -1))) * 1000
    assert result.covariance is not None
    np.testing.assert_allclose(deviations, spread(result.covariance), rtol=0, atol=0.16)  # three columns, half a quantum in each number
    assert result.keypoints is not None
    np.testing.assert_allclose(found["uv"], result.keypoints.uv, rtol=0, atol=0.505e-4)
    np.testing.assert_allclose(found["confidence"], result.keypoints.confidence, rtol=0, atol=1 / 509)
    np.testing.assert_array_equal(found["confidence"] == 0, result.keypoints.confidence == 0)
    np.testing.assert_allclose(found["times"], result.times_s, rtol=0, atol=0.5e-4)
    for name in ("step_ms", "call_ms"):
        np.testing.assert_allclose(found[name], getattr(result, name), rtol=0, atol=0.00505)
    np.testing.assert_array_equal(found["numbers"], np.arange(12))


def test_text_that_a_user_gives_is_text(result: ClipResult) -> None:
    nasty = "</title><script>alert(1)</script> <img src=x onerror=alert(1)> & \"'"
    page = Page(viewer_html(replace(result, notes=(nasty,)), nasty, nasty))
    assert len(page.inline["script"]) == 2
    assert "onerror" not in [name for _, name, _ in page.attributes]
    assert page.text.count(nasty) == 4  # title, heading, line below it, note


def test_no_script_or_style_holds_what_would_end_it() -> None:
    texts = files("diffpose_edge.viewer")
    for folder in ("page", "libraries"):
        for path in (texts / folder).iterdir():
            if path.name.endswith((".js", ".css")):
                content = path.read_text(encoding="utf-8")
                assert not re.search(r"</(script|style)|<!--|<script|\r", content, re.IGNORECASE), path.name


def test_the_libraries_are_those_that_are_written_down() -> None:
    folder = files("diffpose_edge.viewer") / "libraries"
    written = re.findall(r"\| `([\w.]+)` \| `([0-9a-f]{64})` \|", (folder / "README.md").read_text(encoding="utf-8"))
    assert {name for name, _ in written} == {"libraries.min.js", "uPlot.min.css"}
    for name, sha256 in written:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
    versions = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    told = (folder / "README.md").read_text(encoding="utf-8")
    for name, version in {**versions["dependencies"], **versions["devDependencies"]}.items():
        assert version in told, name
    for licence in ("LICENSE.three", "LICENSE.uplot"):
        assert "Permission is hereby granted" in (folder / licence).read_text(encoding="utf-8")


def test_a_result_of_poses_alone_is_a_page_too() -> None:
    made = arrays(1)
    page = Page(viewer_html(ClipResult(joints=made["joints"], times_s=times_of(1, 30))))
    assert set(json.loads(page.blocks["meta"])["arrays"]) == {"times", "numbers", "joints"}
    nan = np.full_like(made["covariance"], np.nan)
    of_one_sample = ClipResult(joints=made["joints"], samples=made["samples"][:, :1], covariance=nan, times_s=times_of(1, 30))
    assert "axes" not in decoded(Page(viewer_html(of_one_sample)))


def test_the_head_says_what_is_shown(result: ClipResult) -> None:
    said = Page(viewer_html(thinned(result, 1, 11, 3, samples=2), "A walk")).text
    for fact in ("4 frames in 0.9 s", "1 without a pose", "N = 2 samples", "K = 2 steps"):
        assert fact in said
    assert "Shown: one in 3 of the frames 1 to 10 of a clip of 12." in said
    assert "Shown: 2 of N = 3 samples; the pose and its uncertainty are of all." in said


def test_a_page_grows_by_a_known_amount_per_frame(text: str) -> None:
    """What docs/viewer.md says of sizes: about a kilobyte a frame with N = 5, before base64 and without the libraries."""
    longer, shorter = (len(viewer_html(full(frames, N=5))) for frames in (112, 12))
    per_frame = (longer - shorter) / 100
    assert 1250 < per_frame < 1750
    assert len(text) < 800_000


def test_too_much_is_refused_and_what_the_message_advises_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.viewer.page.MOST_BYTES", 200_000)
    result = full(120, N=20)
    with pytest.raises(ViewError, match=r"120 frames with N = 20 samples are 0\.3\d\d MB of numbers, more than the 0\.2 MB") as refused:
        viewer_html(result)
    every, last, samples = (int(re.findall(rf"--{name} (\d+)", str(refused.value))[0]) for name in ("every", "last", "samples"))
    for fewer in (thinned(result, every=every), thinned(result, last=last), thinned(result, samples=samples)):
        assert 50_000 < len(base64.b64decode(Page(viewer_html(fewer)).blocks["numbers"])) <= 200_000
    with pytest.raises(ViewError) as refused:
        viewer_html(full(400, N=2))
    assert "--samples" not in str(refused.value)  # without any it would still be too much


def contrast(one: Any, other: Any) -> float:
    """The contrast of two colours (r, g, b), 0..255, as WCAG 2.2 defines it: 1 to 21."""

    def luminance(colour: Any) -> float:
        c = np.array(colour) / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: str) -> None:
    style = (files("diffpose_edge.viewer") / "page" / "viewer.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    hexes = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6})", light if scheme == "light" else dark))
    colours = {name: [int(value[i : i + 2], 16) for i in (0, 2, 4)] for name, value in hexes.items()}
    for ground in ("page", "card", "well"):
        for ink in ("ink", "soft", "warn"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for line in ("right", "left", "trunk", "mark", "accent"):
            assert contrast(colours[line], colours[ground]) >= 3, (line, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
