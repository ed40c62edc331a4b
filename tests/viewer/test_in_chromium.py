"""The page in a real browser: it draws, follows the mouse and the keys, fits a phone, and asks for nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.skeleton import JOINTS
from diffpose_edge.viewer import ClipResult, save_view
from diffpose_edge.viewer.clip_result import times_of

from .chromium import Chromium, found
from .clips_to_show import BLANK, IMAGE, UNSEEN, arrays, full

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(found() is None, reason="no Chromium or Chrome on this machine"),
]
# As small as the wide layout and all of its panels allow: pixels of a software renderer take time.
DESKTOP, PHONE = (1090, 870), (390, 844)
# Where in the 3D view the joint is that its label names.
LABELLED = "(({ x, y }) => [Number(x), Number(y)])(document.getElementById('joint-label').dataset)"
PANELS = ("stage", "picture", "joints", "transport", "uncertainty", "latency", "detail")


@pytest.fixture(scope="module")
def result() -> ClipResult:
    return full(40)


@pytest.fixture(scope="module")
def address(result: ClipResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("view") / "clip.html"
    save_view(result, path, "A walk")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    path = found()
    assert path is not None
    with Chromium(tmp_path_factory.mktemp("profile"), path) as opened:
        yield opened


def box(browser: Chromium, selector: str) -> dict[str, float]:
    """Where an element is in the window, CSS pixels."""
    at: dict[str, float] = browser.value(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
    return at


class Desk:
    """The page in a wide window, loaded anew only when something else was opened meanwhile."""

    def __init__(self, browser: Chromium, address: str) -> None:
        self._browser, self._address, self._turns = browser, address, 0

    def at(self, place: str) -> Chromium:
        """Go to a place in the page, such as "frame=3"; no joint is chosen unless the place says so."""
        if self._browser.opened != (self._address, *DESKTOP, False, False):
            self._browser.open(self._address, *DESKTOP)
        self._turns += 1  # a place that is asked for twice is gone to twice
        self._browser.point(1, 1)
        joint = "" if "joint=" in place else "&joint="
        self._browser.value(f"location.hash = 'turn={self._turns}&{place}{joint}'")
        self._browser.settle()
        return self._browser


@pytest.fixture(scope="module")
def desk(browser: Chromium, address: str) -> Desk:
    return Desk(browser, address)


def text(browser: Chromium, selector: str) -> str:
    said: str = browser.value(f"document.querySelector({selector!r}).textContent")
    return said


def pixels(browser: Chromium, selector: str) -> np.ndarray:
    """What is seen of an element, (height, width, 3)."""
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(browser.screenshot(selector)))
    return np.asarray(image.convert("RGB")).astype(int)


def coloured(image: np.ndarray, kind: str) -> np.ndarray:
    """Which pixels are of the right limbs' red, or of the left limbs' blue."""
    red, blue = image[..., 0], image[..., 2]
    return red - blue > 80 if kind == "right" else blue - red > 60


def differing(one: np.ndarray, other: np.ndarray) -> float:
    """The share of pixels that differ by more than what a second rendering does."""
    return float((np.abs(one - other).max(axis=-1) > 8).mean())


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)])
def test_every_panel_is_drawn_and_nothing_is_asked_for(browser: Chromium, address: str, size: tuple[int, int], dark: bool) -> None:
    browser.open(address, *size, dark=dark, phone=size == PHONE)
    assert browser.complaints == []
    assert [url for url in browser.requests if url not in (address, "about:blank", "data:,")] == []
    width, inner = browser.value("[document.documentElement.scrollWidth, innerWidth]")
    assert width == inner == size[0]
    for panel in PANELS:
        at = box(browser, f"#{panel}")
        assert at["width"] > 200 < at["height"] * 8, panel
        assert at["left"] >= 0
        assert at["right"] <= size[0]
    assert (pixels(browser, "h1").mean() < 100) == dark
    stage = pixels(browser, "#stage-view")
    for side in ("right", "left"):
        assert coloured(stage, side).mean() > 0.002, f"no {side} limbs in the 3D view"
    if size == DESKTOP:
        for panel in ("#picture-canvas", "#uncertainty .chart", "#latency .chart", "#line-canvas"):
            assert pixels(browser, panel).std() > 5, f"{panel} is empty"


def test_the_front_view_shows_what_the_camera_sees(desk: Desk, result: ClipResult) -> None:
    browser = desk.at("frame=9&view=front")
    places = []
    shown = range(0, len(JOINTS), 3)
    for joint in (JOINTS[j] for j in shown):
        browser.value(f"location.hash = 'joint={joint.replace('_', ' ')}'")
        browser.settle()
        assert text(browser, "#joint-label").startswith(joint.replace("_", " "))
        places.append(browser.value(LABELLED))
    expected = result.joints[9, shown]
    # Perspective moves what is nearer outwards, by less than the tenth part.
    for axis in (0, 1):
        assert np.corrcoef(np.array(places)[:, axis], expected[:, axis])[0, 1] > 0.99
    slope = [np.polyfit(expected[:, axis], np.array(places)[:, axis], 1)[0] for axis in (0, 1)]
    assert slope[0] == pytest.approx(slope[1], rel=0.1)


def test_an_ellipsoid_lies_as_its_covariance_does(browser: Chromium, result: ClipResult, tmp_path: Path) -> None:
    """One joint's, long along (2, 1, 0): in the front view it slopes down to the right, and 90 % reach 2.5 deviations."""
    along = np.array([2.0, 1.0, 0.0]) / np.sqrt(5)
    covariance = np.full((1, 17, 3, 3), np.nan)
    covariance[0, 16] = 0.09**2 * np.outer(along, along) + 0.01**2 * np.eye(3)
    only = ClipResult(joints=result.joints[:1], covariance=covariance, times_s=times_of(1, 30))
    save_view(only, tmp_path / "ellipsoid.html")
    browser.open(f"{(tmp_path / 'ellipsoid.html').as_uri()}#view=front", *DESKTOP)
    browser.value("(({ options }) => options[1].selected = true)(document.getElementById('level'))")
    browser.value("document.getElementById('level').dispatchEvent(new Event('change'))")
    browser.settle()
    places = {}
    for joint in ("right wrist", "right elbow"):
        browser.value(f"location.hash = 'joint={joint}'")
        browser.settle()
        places[joint] = browser.value(LABELLED)
    browser.value("location.hash = 'joint='")
    browser.settle()
    shown = pixels(browser, "#stage-view")
    browser.value("document.getElementById('show-ellipsoids').click()")
    browser.settle()
    rows, columns = np.nonzero(np.abs(shown - pixels(browser, "#stage-view")).max(axis=-1) > 8)
    scale = np.linalg.norm(np.subtract(places["right wrist"], places["right elbow"]))
    scale /= np.linalg.norm((result.joints[0, 16] - result.joints[0, 15])[:2])  # pixels a metre, nearly
    values, axes = np.linalg.eigh(np.cov(columns, rows))
    assert axes[1, 1] / axes[0, 1] == pytest.approx(0.5, abs=0.06)
    # An ellipse filled evenly has half its half-axis as deviation.
    assert 2 * np.sqrt(values[1]) / scale == pytest.approx(2.5 * np.hypot(0.09, 0.01), rel=0.12)
    assert [columns.mean(), rows.mean()] == pytest.approx(places["right wrist"], abs=4)


def test_keys_and_buttons_move_the_clip(desk: Desk) -> None:
    browser = desk.at("frame=10")
    assert "frame 10 of 0 to 39" in text(browser, "#clock")
    for key, frame in (("ArrowRight", 11), ("ArrowLeft", 10), ("End", 39), ("ArrowRight", 39), ("Home", 0), ("ArrowLeft", 0)):
        browser.press(key)
        assert f"frame {frame} of" in text(browser, "#clock"), key
    browser.press(" ")
    assert browser.value("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    browser.wait("!document.getElementById('clock').textContent.includes('frame 0 of')")
    browser.press(" ")
    assert browser.value("document.getElementById('play').getAttribute('aria-label')") == "Play"
    stopped = text(browser, "#clock")
    browser.settle()
    assert text(browser, "#clock") == stopped


def test_playing_takes_as_long_as_the_clip_does(desk: Desk) -> None:
    """By the frame shown against the browser's own clock: a slow machine skips frames, it does not fall behind."""
    browser = desk.at("frame=0")
    frames, seconds = browser.value(
        """new Promise((done) => {
          const shown = () => Number(document.getElementById("scrubber").value);
          document.getElementById("play").click();
          const wait = (then) => requestAnimationFrame((now) => (shown() > 0 ? then(now, shown()) : wait(then)));
          wait((began, first) => setTimeout(() => requestAnimationFrame((now) => {
            document.getElementById("play").click();
            done([shown() - first, (now - began) / 1000]);
          }), 1000));
        })"""
    )
    assert frames == pytest.approx(10 * seconds, abs=4)


def test_a_frame_without_a_pose_says_so(desk: Desk) -> None:
    browser = desk.at(f"frame={BLANK}")
    assert text(browser, "#stage-said") == "No pose: too few joints were seen."
    assert "Nobody found" in text(browser, "#picture-said")
    assert not coloured(pixels(browser, "#stage-view"), "right").any()


def test_pointing_at_a_joint_marks_it_everywhere(desk: Desk, result: ClipResult) -> None:
    browser = desk.at("frame=2&view=front")
    browser.point(5, 5)
    assert text(browser, "#detail-title") == "No joint chosen"
    before = {panel: pixels(browser, panel) for panel in ("#stage-view", "#picture-canvas", "#uncertainty .chart")}
    row = box(browser, "#joint-list li:nth-child(3)")
    browser.point(row["left"] + 30, row["top"] + row["height"] / 2)
    assert text(browser, "#detail-title") == "right knee"
    for panel, image in before.items():
        assert np.abs(pixels(browser, panel) - image).max() > 60, f"{panel} does not mark the joint"
    (x, y), view = browser.value(LABELLED), box(browser, "#stage-view")
    # And the other way: where the 3D view has the knee.
    browser.point(view["left"] + 5, view["top"] + 5)
    assert text(browser, "#detail-title") == "No joint chosen"
    browser.point(view["left"] + x, view["top"] + y)
    assert text(browser, "#detail-title") == "right knee"
    assert browser.value("document.querySelectorAll('#joint-list .is-marked').length") == 1


def test_the_chart_tells_which_joint_its_line_is(desk: Desk) -> None:
    browser = desk.at("")
    over = box(browser, "#uncertainty .u-over")
    named = set()
    for part in np.linspace(0.2, 0.9, 6):
        browser.point(over["left"] + over["width"] * 0.6, over["top"] + over["height"] * part)
        named.add(text(browser, "#detail-title"))
    assert len(named - {"No joint chosen"}) >= 2
    browser.drag(over["left"] + over["width"] * 0.6, over["top"] + 20, over["left"] + over["width"] * 0.8, over["top"] + 20)
    assert 30 <= browser.value("Number(document.getElementById('scrubber').value)") <= 32


def test_the_table_has_the_joints_numbers(desk: Desk, result: ClipResult) -> None:
    browser = desk.at(f"frame=2&joint={JOINTS[5].replace('_', ' ')}")
    cells = "[...document.querySelectorAll('#detail-rows tr')].map((row) => [...row.children].map((cell) => cell.textContent))"
    found = dict(browser.value(cells))
    x, y, z = 1000 * result.joints[2, 5]
    assert [float(n) for n in found["x, y, z"].removesuffix(" mm").split(",")] == pytest.approx([x, y, z], abs=0.56)
    assert result.covariance is not None
    assert result.samples is not None
    assert result.context is not None
    assert result.keypoints is not None
    spread = 1000 * np.sqrt(np.trace(result.covariance[2, 5]))
    assert float(found["uncertainty"].split()[0]) == pytest.approx(spread, abs=0.25)
    along = 1000 * np.sqrt(np.linalg.eigvalsh(result.covariance[2, 5]))[::-1]
    assert [float(n) for n in found["along its axes"].removesuffix(" mm").split(",")] == pytest.approx(along, abs=0.65)
    scatter = 1000 * np.sqrt(np.square(result.samples[2, :, 5] - result.joints[2, 5]).sum(axis=-1).mean())
    assert float(found["spread of 3 samples"].split()[0]) == pytest.approx(scatter, abs=0.3)
    offset = result.context[2, 5] - result.context[2, 0] - result.joints[2, 5]
    assert float(found["from the encoder"].split()[0]) == pytest.approx(1000 * np.linalg.norm(offset), abs=0.8)
    assert found["detector"] == f"confidence {result.keypoints.confidence[2, 5]:.2f}"
    w, h = IMAGE
    u, v = result.keypoints.uv[2, 5]
    assert [float(n) for n in found["in the image"].removesuffix(" px").split(",")] == pytest.approx(
        [(u + 1) * w / 2, (v + h / w) * w / 2], abs=0.1
    )
    browser.value(f"location.hash = 'joint={JOINTS[UNSEEN].replace('_', ' ')}'")
    browser.settle()
    assert dict(browser.value(cells))["detector"] == "not seen"
    assert "Not seen: left wrist." in text(browser, "#picture-said")


def test_each_switch_changes_the_3d_view_and_all_of_them_together_change_it_back(desk: Desk) -> None:
    browser = desk.at("frame=6&view=oblique")
    first = before = pixels(browser, "#stage-view")
    for shown in ("samples", "ellipsoids", "context", "axes", "root"):
        browser.value(f"document.getElementById('show-{shown}').click()")
        browser.settle()
        now = pixels(browser, "#stage-view")
        assert differing(now, before) > 0.0005, shown
        before = now
    browser.value("document.querySelectorAll('#toggles input').forEach((one) => one.click())")
    browser.settle()
    assert differing(pixels(browser, "#stage-view"), first) < 0.0005


def test_the_view_turns_by_mouse_and_keys(desk: Desk) -> None:
    browser = desk.at("frame=6&view=front")
    pressed = "document.querySelector('#views [aria-pressed=\"true\"]')?.value ?? null"
    assert browser.value(pressed) == "front"
    front, view = pixels(browser, "#stage-view"), box(browser, "#stage-view")
    x, y = view["left"] + 40, view["top"] + 60
    browser.drag(x, y, x + 120, y)
    turned = pixels(browser, "#stage-view")
    assert np.abs(turned - front).max() > 60
    assert browser.value(pressed) is None
    browser.value("document.querySelector('#stage-view canvas').focus()")
    browser.press("ArrowLeft")
    assert np.abs(pixels(browser, "#stage-view") - turned).max() > 60
    assert "frame 6 of" in text(browser, "#clock")


def test_everything_can_be_reached_by_the_keyboard_and_has_a_name(desk: Desk) -> None:
    browser = desk.at("")
    unnamed = """[...document.querySelectorAll("button, input, select, canvas:not([aria-hidden])")].filter((one) =>
      !(one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"""
    assert browser.value(unnamed) == []
    assert browser.value("[...document.querySelectorAll('[tabindex]')].filter((one) => one.tabIndex < 0).map(String)") == []
    seen = []
    for _ in range(12):
        browser.press("Tab")
        seen.append(browser.value("document.activeElement.id || document.activeElement.value || document.activeElement.textContent"))
    assert len(set(seen)) >= 10, seen
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_result_of_little_has_a_page_that_says_what_it_lacks(browser: Chromium, tmp_path: Path) -> None:
    for frames in (1, 6):
        save_view(ClipResult(joints=arrays(frames)["joints"], times_s=times_of(frames, 30)), tmp_path / "little.html")
        browser.open((tmp_path / "little.html").as_uri(), *DESKTOP)
        assert browser.complaints == []
        assert "--keypoints" in text(browser, "#picture-said")
        assert "no covariance" in text(browser, "#uncertainty .said")
        assert browser.value("document.getElementById('latency').hidden")
        assert browser.value("[...document.querySelectorAll('#toggles input')].map((one) => one.id)") == ["show-axes"]
        assert coloured(pixels(browser, "#stage-view"), "right").mean() > 0.002


def test_a_result_in_which_nobody_is_found_is_a_page(browser: Chromium, tmp_path: Path) -> None:
    save_view(ClipResult(joints=np.full((3, 17, 3), np.nan, np.float32), times_s=times_of(3, 30)), tmp_path / "nobody.html")
    browser.open((tmp_path / "nobody.html").as_uri(), *DESKTOP)
    assert browser.complaints == []
    assert text(browser, "#stage-said") == "No pose: too few joints were seen."
