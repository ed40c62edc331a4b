"""What the README tells a reader to type, typed; and the figures that it quotes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.clips import street_walk
from diffpose_edge.runtime import PoseRuntime

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The names that the README gives to a reader's own files, and what stands for them here.
CHECKPOINTS = {"diffpose_uvxyz_cpn.pth": "denoiser", "gcn_xyz_cpn.pth": "context"}


def examples() -> list[str]:
    """The README's Python, in its order."""
    return re.findall(r"<!-- run by tests/packaging/test_readme.py -->\n```python\n(.*?)```", README, re.DOTALL)


def shell_lines() -> list[str]:
    text = re.sub(r"<!-- not run by the tests: [^\n]* -->\n```sh\n.*?```", "", README, flags=re.DOTALL)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    """A folder with the files that the README's commands start from."""
    path = tmp_path_factory.mktemp("reader")
    for name, role in CHECKPOINTS.items():
        shutil.copy(getattr(golden, role), path / name)
    np.savez(path / "clip.npz", keypoints=golden.expected["input_2d"])
    return path


def test_every_command_of_the_readme_runs(folder):
    commands = [line for line in shell_lines() if line.startswith("diffpose-edge")]
    assert [c.split()[1] for c in commands] == [
        "export",
        "verify",
        "inspect",
        "run",
        "view",
        "doctor",
        "calibrate",
        "sensitivity",
        "lint",
        "build",
        "bench",
        "evaluate",
        "train",
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        result = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    assert np.load(folder / "poses.npz")["joints"].shape == (3, 17, 3)


def test_the_embedding_example_runs(golden, golden_bundle, tmp_path, monkeypatch, capsys):
    shutil.copytree(golden_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    exec(compile(examples()[0], "README.md", "exec"), {"keypoints": golden.expected["input_2d"]})
    shapes = capsys.readouterr().out.splitlines()
    assert shapes[:3] == ["(3, 17, 3)", "(3, 3, 17, 3)", "(3, 17, 3, 3)"]


def test_the_robots_example_runs(conditioned_bundle, tmp_path, monkeypatch, capsys):
    shutil.copytree(conditioned_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    with PoseRuntime.load("bundle") as runtime:
        runtime.measure(steps=[1, 2], rounds=100, pause_ms=0)
    example = examples()[1]
    assert len(example.splitlines()) <= 30
    clip = street_walk().keypoints
    person = np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1)[60:]
    camera = [(i * 33_000_000, np.stack([person[i], person[i] + [0.6, 0, 0]])[:: (-1) ** i]) for i in range(4)]
    exec(compile(example, "README.md", "exec"), {"camera": camera})
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    # Whoever comes first in a frame keeps their own number.
    assert [int(body_id) for body_id, _ in told] == [0, 1, 1, 0, 0, 1, 1, 0]
    for _, rest in told:
        assert re.fullmatch(r"\[.*\] \(17, 3\) \d+ False", rest), rest


def test_make_knows_the_targets_that_the_texts_name():
    texts = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^ *|`)make ([a-z-]+)", texts, re.MULTILINE))
    assert {"demo", "test", "lint", "typecheck", "bench"} <= targets
    for target in targets:
        result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"make {target}: {result.stderr}"


def test_links_and_paths_in_the_texts_exist():
    for text in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        content = text.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", content) if not link.startswith("http")]
        named = re.findall(r"`((?:diffpose_edge|tests|runtime|export|reference|benchmarks|docs)/[\w./]+)`", content)
        for path in (*(text.parent / link for link in links), *(ROOT / name for name in named)):
            assert path.exists(), f"{text.name} names {path}"


@pytest.mark.parametrize("pair", ["frame", "video", "causal"])
def test_quoted_accuracies_are_those_of_the_committed_result(pair):
    report = json.loads((ROOT / "benchmarks" / "results" / f"{pair}_evaluation.json").read_text(encoding="utf-8"))
    row = report["rows"][0]
    figures = f"{row['context_mpjpe']:.1f} mm | {row['mpjpe']:.1f} mm | {row['p_mpjpe']:.1f} mm | {100 * row['coverage_90']:.1f} %"
    assert f"| {pair} | {figures} |" in README


def test_quoted_precisions_are_those_of_the_committed_result():
    results = ROOT / "benchmarks" / "results"
    rows = json.loads((results / "precision.json").read_text(encoding="utf-8"))["rows"]
    table = (results / "precision.md").read_text(encoding="utf-8")
    assert table in (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    assert len(rows) == len(table.splitlines()) - 2
    for row in rows:
        assert f"| {row['pair']} | {row['K']} | {row['precision']} | {row['mean_mm']:.{4 if row['precision'] == 'fp32' else 2}f} |" in table


def test_the_quoted_comparison_is_the_committed_one_and_ours_is_at_most_half_of_the_best_default():
    results = ROOT / "benchmarks" / "results"
    table = (results / "quantizer_comparison.md").read_text(encoding="utf-8")
    claims = re.findall(r"^- (?:both graphs|step alone), K=.*$", table, re.MULTILINE)
    quoted = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    assert len(claims) == 8
    for claim in claims:
        assert claim in quoted
        assert int(re.search(r"(\d+) % of the best default", claim).group(1)) <= 50


def test_quoted_latencies_are_those_of_the_committed_result():
    """A row for each N: milliseconds per step of the runtime, of what one would take instead, and how many times as long that takes."""
    report = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text(encoding="utf-8"))
    rows = {(row["N"], row["backend"], row["precision"]): row for row in report["rows"]}
    peers = [(name, "fp32") for name in ("eager-released", "torch-compiled", "plain-onnx", "openvino")]
    for N in (1, 5, 20):
        ours = rows[N, "onnxruntime", "fp32"]
        others = [f"{rows[(N, *peer)]['ms']['step']['p50']:.2f} ({rows[(N, *peer)]['ratio']:.1f})" for peer in peers]
        int8 = rows[N, "onnxruntime", "int8"]
        others.insert(0, f"{int8['ms']['step']['p50']:.2f} ({int8['ratio']:.2f})")
        quoted = f"| {N} | {ours['ms']['step']['p50']:.2f} | {' | '.join(others)} | {ours['network_floor']['ratio']:.2f} |"
        assert quoted in README, f"README lacks {quoted}"
    assert f"took {report['import_s']:.2f} s" in README
    assert report["machine"]["processor"] in README
