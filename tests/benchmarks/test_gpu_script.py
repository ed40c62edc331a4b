"""benchmarks/gpu.sh, with a stand-in for Python that only notes what it is asked: order, results, exit codes, the time it may take."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"
STAND_IN = """#!/bin/sh
echo "$DIFFPOSE_FLAVOUR|$*" >> "$NOTES"
case "$*" in
    *pip*) for last; do :; done; cat "$last" >> "$NOTES" ;;
    *engine_probe*) printf '%s\\n' "$PROBE"; exit "$PROBE_CODE" ;;
    *"$FAILING"*) echo "what it said last"; exit 7 ;;
esac
"""
REFUSED = "rtx: refused: SM 9.0\nengines: NOT TESTED: TensorRT-RTX refuses this GPU: SM 9.0"
# How long it may take at most, in seconds, and how much of that latency has at least when every other step needs all of its own.
ALL, LEFT_FOR_LATENCY = 560, 60


class Run:
    """One run of the script: its exit code, the summary, the commands that were asked for, and the names of the results."""

    def __init__(self, folder: Path, *wheels: Path, probe: str = "rtx: takes engines", code: int = 0, failing: str = "nothing", **env: str):
        python, notes, out = folder / "python", folder / "notes", folder / "out"
        python.write_text(STAND_IN)
        python.chmod(0o755)
        notes.write_text("")
        given = {"PYTHON": str(python), "NOTES": str(notes), "PROBE": probe, "PROBE_CODE": str(code), "FAILING": failing, **env}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DIFFPOSE_")}
        done = subprocess.run([SCRIPT, out, *wheels], env={**clean, **given}, capture_output=True, text=True, check=False)
        self.code, self.notes, self.summary = done.returncode, notes.read_text(), (out / "summary.txt").read_text()
        self.files = sorted(path.name for path in out.iterdir())

    def order(self) -> list[str]:
        """Return the steps in the order in which they were asked for."""
        words = ("doctor", "test_gpu_cuda", "test_gpu_onnxruntime", "engine_probe", "test_gpu_engines", "gpu_latency")
        asked = [line for line in self.notes.splitlines() if "compute-sanitizer" not in line]
        return [word for line in asked for word in words if word in line]


def test_the_order_of_the_steps_and_the_results(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.code == 0, run.summary
    assert run.order() == ["doctor", "test_gpu_cuda", "test_gpu_onnxruntime", "engine_probe", "test_gpu_engines", "gpu_latency"]
    assert "rtx|-m pytest" in run.notes
    # gpu_latency.json is the benchmark's own.
    assert len({*run.files, "gpu_latency.json", "sanitizer.log"}) <= 8


def test_each_tensorrt_that_the_gpu_takes_is_tested(tmp_path: Path) -> None:
    run = Run(tmp_path, probe="tensorrt: takes engines\nrtx: takes engines")
    assert run.code == 0
    assert [line.split("|")[0] for line in run.notes.splitlines() if "test_gpu_engines" in line] == ["tensorrt", "rtx"]


@pytest.mark.parametrize(
    ("known", "code", "ends"),
    [("", 3, 1), ("known", 3, 0), ("known", 1, 1), ("known", 139, 1)],
    ids=["refused", "refused, as known", "no GPU", "crashed"],
)
def test_a_refusal_is_told_exactly_and_is_green_only_where_it_is_known(tmp_path: Path, known: str, code: int, ends: int) -> None:
    run = Run(tmp_path, probe=REFUSED if code != 139 else "", code=code, DIFFPOSE_ENGINES_REFUSED=known)
    assert run.code == ends, run.summary
    told = "TensorRT-RTX refuses this GPU: SM 9.0" if code != 139 else "the probe gave no answer, see engines.log"
    assert f"engines: NOT TESTED: {told}" in run.summary.splitlines()
    assert "test_gpu_engines" not in run.order()
    assert "gpu_latency" in run.order()


@pytest.mark.parametrize("failing", ["doctor", "test_gpu_cuda", "test_gpu_onnxruntime", "test_gpu_engines", "gpu_latency"])
def test_a_step_that_fails_is_told_and_the_others_go_on(tmp_path: Path, failing: str) -> None:
    run = Run(tmp_path, failing=failing)
    assert run.code == 1
    assert re.search(r": failed with 7 after \d+ s: what it said last$", run.summary, re.MULTILINE)
    assert len(run.order()) == 6


def test_a_wheel_in_parts_is_joined(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for i, part in enumerate(("first ", "second ", "third")):
        (folder / f"big.whl.part-{i:02}").write_text(part)
    assert "first second third" in Run(tmp_path, folder).notes


def test_a_folder_of_wheels_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, tmp_path / "out", tmp_path / "nowhere"], capture_output=True, check=False)
    assert done.returncode == 2


def test_the_limits_add_up() -> None:
    """The steps before the last one, then what is left for it; each may need 10 s more to be killed, which the rest then lacks."""
    text = SCRIPT.read_text()
    [deadline] = [int(found) for found in re.findall(r"^deadline=\$\(\((\d+) \* slower\)\)", text, re.MULTILINE)]
    assert deadline + 10 < ALL
    limits = [
        int(found) for found in re.findall(r"(?:within|step (?:\w+|\"engines probe\"|\"engines \$flavour\") (?:\$\(\()?)\s?(\d+)", text)
    ]
    assert limits[-1] == deadline
    assert len(limits) == 8
    assert sum(limits[:-1]) + LEFT_FOR_LATENCY <= deadline
