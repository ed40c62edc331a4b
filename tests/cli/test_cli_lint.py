"""``diffpose-edge lint``: exit status, the table, the JSON file, and the user's mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from diffpose_edge.cli import main
from diffpose_edge.export.lint import TARGETS

Run = Callable[..., SimpleNamespace]
HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
CLEAN = "g (float[2, 4] x) => (float[2, 4] y) { [relu] y = Relu(x) }"
FAULTY = "g (float[4, 4] x) => (float y) { [first] y = Det(x) }"
TWICE = "g (float[2, 4] x) => (float[2, 4] y) { [one] p = Frobnicate(x) [two] y = Frobnicate(p) }"


@pytest.fixture
def lint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; check its exit status; return what it printed."""

    def run(*arguments: object, status: int) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["diffpose-edge", "lint", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert stop.value.code == status, captured.err + captured.out
        assert "Traceback" not in captured.err
        return SimpleNamespace(out=captured.out, err=captured.err)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        onnx.save(onnx.parser.parse_model(HEADER + text), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return make


def test_a_clean_file(lint: Run, file: Callable[[str], Path]) -> None:
    said = lint(file(CLEAN), status=0)
    assert "clean: 0 refused, 0 bad, 0 risk, 2 note" in said.out
    assert f"targets {', '.join(TARGETS)}" in said.out


def test_findings_are_printed_and_set_the_status(lint: Run, file: Callable[[str], Path]) -> None:
    said = lint(file(FAULTY), "--target", "8.6", status=1)
    for part in ("refused", "op-unsupported", "first", "Det", "no parser reads Det", "findings: 1 refused, 0 bad, 0 risk, 0 note"):
        assert part in said.out


def test_rows_are_gathered_unless_all_are_asked_for(lint: Run, file: Callable[[str], Path]) -> None:
    said = lint(file(TWICE), "--target", "8.6", status=1)
    assert "(and 1 more)" in said.out
    assert "two" not in said.out
    assert "two" in lint(file(TWICE), "--target", "8.6", "--all", status=1).out


def test_targets_may_be_repeated(lint: Run, file: Callable[[str], Path]) -> None:
    said = lint(file(FAULTY), "--target", "8.6", "--target", "rtx", "--target", "8.6", status=1)
    assert "targets 8.6, rtx)" in said.out
    assert f"targets {', '.join(TARGETS)}" in lint(file(FAULTY), "--target", "all", "--target", "rtx", status=1).out


def test_the_json_file_has_every_finding(lint: Run, file: Callable[[str], Path], tmp_path: Path) -> None:
    lint(file(TWICE), "--target", "10.3", "--json", tmp_path / "out.json", status=1)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["targets"] == ["10.3"]
    assert report["counts"] == {"refused": 2, "bad": 0, "risk": 0, "note": 0}
    (entry,) = report["files"]
    assert entry["file"] == str(tmp_path / "m.onnx")
    assert [finding["node"] for finding in entry["findings"]] == ["one", "two"]
    assert set(entry["findings"][0]) == {"rule", "severity", "target", "node", "op", "tensor", "reason", "remedy", "source"}


def test_a_bundle_stands_for_its_graphs(lint: Run, conditioned_bundle: Path) -> None:
    said = lint(conditioned_bundle, status=0)
    assert "(2 files" in said.out
    for name in ("context.fp32.onnx", "step.fp32.onnx"):
        assert name in said.out


def test_names_with_brackets_are_shown_as_they_are(lint: Run, file: Callable[[str], Path], tmp_path: Path) -> None:
    path = file(FAULTY)
    model = onnx.load(path)
    model.graph.node[0].name = "[red]module[0]"
    onnx.save(model, path)
    assert "[red]module[0]" in lint(path, "--target", "rtx", status=1).out


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"<html>Not Found</html>", "is not an ONNX file"), (b"", "holds no graph")],
)
def test_a_file_that_cannot_be_read(lint: Run, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    said = lint(tmp_path / "m.onnx", "--json", tmp_path / "out.json", status=2)
    assert said.err.startswith("error: ")
    assert message in " ".join(said.err.split())
    assert sorted(tmp_path.iterdir()) == before


def test_the_other_mistakes(lint: Run, file: Callable[[str], Path], tmp_path: Path) -> None:
    path = file(CLEAN)
    assert "expected a target out of 8.6" in " ".join(lint(path, "--target", "9", status=2).err.split())
    assert "is not a bundle" in " ".join(lint(tmp_path, status=2).err.split())
    assert "cannot write" in lint(path, "--json", tmp_path / "none" / "out.json", status=2).err
    assert "no such option" in lint(path, "--levle", status=2).err.lower()
