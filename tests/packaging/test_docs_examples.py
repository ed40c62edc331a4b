"""The examples of the documentation, run as they stand there."""

import re
import shutil
import time
from pathlib import Path

import numpy as np

DOCS = Path(__file__).resolve().parents[2] / "docs"


def example_of(name: str) -> str:
    text = (DOCS / name).read_text(encoding="utf-8")
    (example,) = re.findall(r"<!-- run by tests/packaging/test_docs_examples.py -->\n```python\n(.*?)```", text, re.DOTALL)
    return example


def test_the_pose_stream_example_runs(golden, golden_bundle, tmp_path, monkeypatch, capsys):
    example = example_of("streaming.md")
    assert len(example.splitlines()) <= 30
    shutil.copytree(golden_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    person = golden.expected["input_2d"][0]

    def camera():
        for i in range(12):
            time.sleep(0.03)
            yield i * 33_000_000, np.stack([person + 0.001 * i])

    names = {"camera": camera()}
    exec(compile(example, "streaming.md", "exec"), names)
    *bodies, counters = capsys.readouterr().out.splitlines()
    told = [line.split(maxsplit=2) for line in bodies]
    stamps = [int(stamp) for stamp, *_ in told]
    # The last frame is never dropped; the first has no number yet.
    assert stamps == sorted(set(stamps))
    assert stamps[-1] == 11 * 33_000_000
    assert {(body_id, shape.split(")")[0]) for _, body_id, shape in told} == {("0", "(17, 3")}
    assert counters.startswith("StreamCounters(frames=12,")
    assert names["stream"].counters.left_out == 1


def test_the_metrics_example_runs(golden, golden_bundle, tmp_path, monkeypatch, capsys):
    shutil.copytree(golden_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    names = {"keypoints": golden.expected["input_2d"][:1]}
    exec(compile(example_of("observability.md"), "observability.md", "exec"), names)
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert names["stream"].counters.computed == 1
