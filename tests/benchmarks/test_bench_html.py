"""The HTML report: one file, whole, with everything that the report says."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.benchmarks.bench_html import html_of, save_html
from diffpose_edge.benchmarks.bench_labels import labels_of
from diffpose_edge.benchmarks.bench_plots import PICTURES, pictures_of, save_pictures

from .bench_reports import report

VOID = {"meta", "img", "br", "hr", "link", "input"}
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Reads a page; refuses tags that are not closed where they should be."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._table: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(dict(attrs).get("id") or "", [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self._table[-1][-1] += data


@pytest.fixture(scope="module")
def full() -> dict[str, Any]:
    """A report with all that a report can have."""
    spread = {"min": 1.0, "mean": 2.0, "max": 3.0}
    telemetry = {
        **dict.fromkeys(("clock_mhz", "temperature_c", "throttled"), None),
        **{"samples": 7, "seconds": 3.5, "power_w": {"VDD_IN": spread}, "energy_j": {"package-0": 12.5}, "throttle_events": {"heat": 2}},
        **{"missing": {"nvml": "there is <none>"}, "flags": ["throttled 2 times: heat"]},
    }
    sgemm = [{"round": i, "sgemm_gflops": 50.0 + i, "memory_gb_per_s": 9.0, "cache_gb_per_s": 30.0, "node_us": 1.0} for i in (0, 12, 24)]
    floors = {"1": {"threads": 1, **{name: value for name, value in sgemm[1].items() if name != "round"}, "measured": sgemm}}
    made = report(refused=True, telemetry=telemetry, floors=floors, flags=telemetry["flags"])
    cost = {"flops": 26e6, "matmul_flops": 25e6, "bytes": 6e6, "weight_bytes": 2e6, "border_bytes": 1e5, "nodes": 300, "running": 260}
    for row in made["rows"]:
        row["cost"] = {"context": cost, "step": cost}
        row["floor"] = {"ms": {"step": 0.5, "encoder": 0.5, "frame": 1.5}, "ratio": {"step": 1.25, "encoder": 2.0, "frame": 1.5}}
        row["energy_per_frame"] = {"joules": 0.0421, "of": "VDD_IN", "how": "counter"}
    return made


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(full: dict[str, Any]) -> None:
    text = html_of(full)
    page = Page(text)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == len(PICTURES)
    for source in sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(PNG)


def test_the_tables_say_what_the_report_says(full: dict[str, Any]) -> None:
    page = Page(html_of(full))
    heading, *rows = page.tables["rows"]
    assert [row[0] for row in rows] == ["N=1 K=2", "N=1 K=5", "N=5 K=2", "N=5 K=5", "N=20 K=2", "N=20 K=5"]
    assert {"frame p50", "step / floor", "J / frame"} <= set(heading)
    for name, value in (("step / floor", "1.250"), ("J / frame", "0.042")):
        assert {row[heading.index(name)] for row in rows} == {value}
    p50 = full["rows"][2]["ms"]["frame"]["p50"]
    assert float(rows[2][heading.index("frame p50")]) == pytest.approx(p50, rel=1e-3)
    assert page.tables["refused"][1] == ["other onnxruntime int8 K=5 1 thr.", "the bundle <b>has none</b>"]
    assert page.tables["floors"][1] == ["1", "62.0", "50.0 to 74.0", "9.0", "30.0", "1.00"]
    assert page.tables["costs"][1] == ["no-such-bundle-n1 fp32", "context", "26.0", "25.0", "6.00", "2.00", "260 of 300"]
    assert [row[0] for row in page.tables["telemetry"][1:]] == ["VDD_IN, W", "package-0, J in all", "heat, times"]
    for said in ("throttled 2 times: heat", "there is <none>", "step over N", "24 rounds count", full["machine"]["processor"]):
        assert said in page.text


def test_a_report_of_almost_nothing_is_a_page_too() -> None:
    one = report()
    one["rows"] = one["rows"][:1]
    for row in one["rows"]:
        row["samples_ms"] = {**row["samples_ms"], "steps": [[None, None]] * row["rounds"], "encoder": [None] * row["rounds"]}
        row["ms"]["step"] = row["ms"]["encoder"] = dict.fromkeys(row["ms"]["frame"])
    one["scaling"] = []
    page = Page(html_of(one))
    assert "step p50" not in page.tables["rows"][0]
    assert set(pictures_of(one)) == {"distribution", "rounds"}
    nothing = report(refused=True)
    nothing["rows"], nothing["scaling"] = [], []
    assert "Nothing could be measured" in Page(html_of(nothing)).text


def test_a_report_of_the_first_format_is_a_page() -> None:
    old = report()
    for name in ("telemetry", "floors", "floors_missing", "scaling", "flags"):
        old.pop(name, None)
    for row in old["rows"]:
        for name in ("cost", "cost_missing", "floor", "energy_per_frame"):
            del row[name]
    assert "rows" in Page(html_of(old)).tables


def test_pictures_are_written_and_are_pictures(full: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    for path in save_pictures(full, tmp_path):
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.shape[0] > 300 < picture.shape[1]
        assert 0.005 < (picture < 200).mean() < 0.5, path
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(PICTURES)
    save_html(full, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("changes", "common", "labels"),
    [
        ([{}, {"K": 9}], "b cpu fp32 N=1 P=1 2 thr.", ["K=2", "K=9"]),
        ([{}, {"bundle": "x/c"}], "cpu fp32 N=1 P=1 K=2 2 thr.", ["b", "c"]),
        ([{}, {"bundle": "x/c", "N": 5}], "cpu fp32 P=1 K=2 2 thr.", ["N=1", "N=5"]),
        ([{}, {"threads": None, "backend": "gpu"}], "b fp32 N=1 P=1 K=2", ["cpu 2 thr.", "gpu"]),
        ([{}], "b cpu fp32 N=1 P=1 K=2 2 thr.", ["b cpu fp32 N=1 P=1 K=2 2 thr."]),
        ([], "", []),
    ],
)
def test_labels_say_what_differs(changes: list[dict[str, Any]], common: str, labels: list[str]) -> None:
    same = {"bundle": "a/b", "backend": "cpu", "precision": "fp32", "N": 1, "P": 1, "K": 2, "threads": 2}
    assert labels_of([{**same, **change} for change in changes]) == (common, labels)
