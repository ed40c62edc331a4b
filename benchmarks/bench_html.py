"""A report of ``diffpose-edge bench`` as one HTML file: tables and pictures, nothing that has to be loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.bench_labels import FIELDS, labels_of
from diffpose_edge.benchmarks.bench_plots import pictures_of
from diffpose_edge.benchmarks.bench_rounds import PAUSE_S
from diffpose_edge.benchmarks.scaling_fit import said
from diffpose_edge.extras import require

# Of a picture, what somebody who does not see it is told.
ALT = {
    "distribution": "Spread of each row's latency by stage; the figures are in the table above",
    "rounds": "Each row's frame latency over the rounds, relative to its median",
    "steps": "Milliseconds of each diffusion step",
    "scaling": "Latency over N, P, K and threads with fitted lines; the lines are listed below",
}
UNITS = {"power_w": "W", "clock_mhz": "MHz", "temperature_c": "°C"}
COUNTED = {"energy_j": "J in all", "throttle_events": "times", "throttled": "of the samples"}
Report = Mapping[str, Any]


def save_html(report: Report, path: str | Path, title: str = "DiffPose latency") -> None:
    """Write a report as an HTML file. Raises OutputError, MissingPackage."""
    content = html_of(report, title)
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def html_of(report: Report, title: str = "DiffPose latency") -> str:
    """Return a report as HTML with its pictures in it. Raises MissingPackage."""
    require("jinja2", "matplotlib")
    import jinja2

    source = (files("diffpose_edge.benchmarks") / "bench_report.html.j2").read_text(encoding="utf-8")
    # Whatever a bundle is called, it is text.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(source).render(_content(report, title))


def _content(report: Report, title: str) -> dict[str, Any]:
    machine, telemetry = report["machine"], report.get("telemetry") or {}
    headings, rows = _rows(report["rows"])
    facts = {name: machine.get(name) for name in ("processor", "cores", "system", "governor", "python", "load_before", "load_1min")}
    return {
        "title": title,
        "machine": machine,
        "common": labels_of(report["rows"])[0],
        "flags": report.get("flags") or [],
        "headings": headings,
        "rows": rows,
        "refused": [{"label": _name(one), "reason": one["reason"]} for one in report["refused"]],
        "pictures": [{"base64": base64.b64encode(png).decode(), "alt": ALT[name]} for name, png in pictures_of(report).items()],
        "scaling": [said(one) for one in report.get("scaling") or []],
        "floors": [_floor(one) for one in (report.get("floors") or {}).values()],
        "floors_missing": report.get("floors_missing") or "not measured",
        "costs": _costs(report["rows"]),
        "telemetry": _telemetry(telemetry),
        "telemetry_samples": telemetry.get("samples"),
        "telemetry_seconds": telemetry.get("seconds"),
        "telemetry_missing": list((telemetry.get("missing") or {}).items()),
        "machine_facts": [(name, "not told" if value is None else value) for name, value in {**facts, **machine["versions"]}.items()],
        "pause_ms": f"{1000 * PAUSE_S:g}",
        "rounds": ", ".join(str(count) for count in sorted({row["rounds"] for row in report["rows"]})) or 0,
        "version": report["format_version"],
    }


def _name(names: Mapping[str, Any]) -> str:
    threads = "" if names["threads"] is None else f" {names['threads']} thr."
    return f"{Path(names['bundle']).name} {names['backend']} {names['precision']} K={names['K']}{threads}"


def _rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the headings, and of each row its label and cells; columns that no row has anything for are left out."""
    columns: dict[str, list[float | None]] = {}
    for stage, percents in (
        ("frame", ("p50", "p90", "p99", "max")),
        ("step", ("p50", "p99")),
        ("encoder", ("p50",)),
        ("aggregate", ("p50",)),
    ):
        for percent in percents:
            columns[f"{stage} {percent}"] = [row["ms"][stage][percent] for row in rows]
    floors = [row.get("floor") or {"ratio": {}} for row in rows]
    columns["step / floor"] = [floor["ratio"].get("step") for floor in floors]
    columns["frame / floor"] = [floor["ratio"].get("frame") for floor in floors]
    columns["jitter"] = [row["jitter"] for row in rows]
    columns["J / frame"] = [(row.get("energy_per_frame") or {}).get("joules") for row in rows]
    columns["load s"] = [row["load_s"] for row in rows]
    columns["first ms"] = [row["first_ms"] for row in rows]
    columns["MB"] = [row["resident_mb"] for row in rows]
    told = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    table = []
    before: Mapping[str, Any] | None = None
    for index, (row, label) in enumerate(zip(rows, labels_of(rows)[1], strict=True)):
        peers = [other for other, one in enumerate(rows) if all(one[name] == row[name] for name in "NPK")]
        cells = [{"text": _number(values[index]), "best": _is_least([values[i] for i in peers], values[index])} for values in told.values()]
        table.append({"label": label, "cells": cells, "begins_group": before is not None and _another_group(before, row)})
        before = row
    return list(told), table


def _another_group(before: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Tell whether a row does other work than the one before it: other N or P, where the table has several."""
    return any(before[field] != row[field] for field in FIELDS if field in ("N", "P"))


def _is_least(values: Sequence[float | None], value: float | None) -> bool:
    known = [one for one in values if one is not None]
    return len(known) > 1 and value == min(known)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _floor(one: Mapping[str, Any]) -> dict[str, Any]:
    sgemm = [each["sgemm_gflops"] for each in one["measured"]]
    return {
        "threads": one["threads"],
        "sgemm": f"{one['sgemm_gflops']:.1f}",
        "range": f"{min(sgemm):.1f} to {max(sgemm):.1f}",
        "memory": f"{one['memory_gb_per_s']:.1f}",
        "cache": f"{one['cache_gb_per_s']:.1f}",
        "node": f"{one['node_us']:.2f}",
        "times": len(sgemm),
    }


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the counts of every graph once: rows that differ in K or threads run the same."""
    of = {f"{Path(row['bundle']).name} {row['precision']}": row["cost"] for row in rows if row.get("cost")}
    return [
        {
            "label": label,
            "role": role,
            "flops": f"{cost['flops'] / 1e6:.1f}",
            "matmul": f"{cost['matmul_flops'] / 1e6:.1f}",
            "moved": f"{cost['bytes'] / 1e6:.2f}",
            "weights": f"{cost['weight_bytes'] / 1e6:.2f}",
            "running": cost["running"],
            "nodes": cost["nodes"],
        }
        for label, costs in of.items()
        for role, cost in costs.items()
    ]


def _telemetry(telemetry: Mapping[str, Any]) -> list[dict[str, str]]:
    table = []
    for quantity, unit in UNITS.items():
        for name, spread in (telemetry.get(quantity) or {}).items():
            table.append({"what": f"{name}, {unit}", **{which: _number(spread[which]) for which in ("min", "mean", "max")}})
    for quantity, unit in COUNTED.items():
        for name, much in (telemetry.get(quantity) or {}).items():
            table.append({"what": f"{name}, {unit}", "min": "", "mean": _number(much), "max": ""})
    return table
