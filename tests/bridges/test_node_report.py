"""What the node says of itself."""

from __future__ import annotations

import pytest

from diffpose_edge.runtime.bridges.node_report import LATEST, NodeReport, diagnostics

from .ros_doubles import ros_doubles

TYPES = ros_doubles()


def status(report: NodeReport, active: bool = True) -> tuple[bytes, str, dict[str, str]]:
    [told] = diagnostics(TYPES, TYPES.Header(), "/node: poses", "cpu", report, active, {"tf": "no"}).status
    return told.level, told.message, {value.key: value.value for value in told.values}


def test_percentiles_are_of_the_latest_frames() -> None:
    report = NodeReport()
    assert "latency_p50_ms" not in report.values()
    for latency in [1000] + list(range(1, LATEST + 1)):
        report.answer(2, 1, latency * 1_000_000, 5_000_000)
    values = report.values()
    assert (values["latency_p50_ms"], values["latency_max_ms"], values["image_age_p99_ms"]) == ("500.500", "1000.000", "5.000")
    assert (values["answered"], values["people"], values["without_pose"]) == ("1001", "2002", "1001")


def test_what_is_new_and_wrong_warns_once() -> None:
    report = NodeReport()
    report.count("frames", 3)
    report.answer(1, 0, 1, 1)
    assert status(report)[0] == TYPES.DiagnosticStatus.OK
    report.count("frames")
    report.refuse("number", "NaN in joint 3")
    level, message, values = status(report)
    assert level == TYPES.DiagnosticStatus.WARN
    assert "1 malformed" in message
    assert "NaN in joint 3" in message
    assert (values["malformed"], values["malformed_number"], values["malformed_length"], values["tf"]) == ("1", "1", "0", "no")
    report.count("frames")
    assert status(report)[0] == TYPES.DiagnosticStatus.OK


def test_the_rate_is_of_the_time_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 102.0, 102.5))
    monkeypatch.setattr("diffpose_edge.runtime.bridges.node_report.monotonic", lambda: next(clock))
    report = NodeReport()
    for _ in range(60):
        report.answer(1, 0, 1, 1)
    assert status(report)[2]["rate_hz"] == "30.000"
    assert status(report)[2]["rate_hz"] == "0.000"


def test_silence_warns_while_active_and_not_while_inactive() -> None:
    assert status(NodeReport())[0] == TYPES.DiagnosticStatus.WARN
    assert status(NodeReport(), active=False)[:2] == (TYPES.DiagnosticStatus.OK, "inactive")


def test_a_count_of_something_unknown_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        NodeReport().count("malformed_colour")
