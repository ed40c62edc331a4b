"""The curves of a training, and the logs that they are drawn from."""

from __future__ import annotations

import json

import pytest

from diffpose_edge.errors import TrainingError
from diffpose_edge.reference.training.log_plot import plot_logs, read_log

LINE = json.dumps({"epoch": 1, "loss": 0.5, "held_out_mm": 10.0})


def test_a_log_is_read_as_it_was_written(tmp_path):
    (tmp_path / "context.log.jsonl").write_text(LINE + "\n")
    assert read_log(tmp_path / "context.log.jsonl") == [json.loads(LINE)]


def test_every_figure_in_millimetres_is_drawn_once(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("diffpose_edge.reference.training.log_plot._draw", lambda axes, epochs, curves: drawn.append(list(curves)))
    epoch = {"epoch": 1, "loss": 0.5, "gradient": 1.0, "x0_mm": 9.0, "held_out_mm": 10.0, "held_out_one_sample_mm": 11.0, "seconds": 3}
    (tmp_path / "denoiser.log.jsonl").write_text(json.dumps(epoch) + "\n")
    plot_logs(tmp_path, tmp_path / "plot.png")
    assert drawn == [["loss"], ["x0_mm", "held_out_mm", "held_out_one_sample_mm"]]


def test_the_plot_has_a_row_for_each_stage(tmp_path):
    for folder, stages in (("both", ("context", "denoiser")), ("one", ("context",))):
        (tmp_path / folder).mkdir()
        for stage in stages:
            (tmp_path / folder / f"{stage}.log.jsonl").write_text(LINE + "\n" + LINE.replace("1", "2", 1) + "\n")
        plot_logs(tmp_path / folder, tmp_path / f"{folder}.png")
    # Width and height in the header of a PNG.
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24], "big") for name in ("both.png", "one.png")]
    assert heights[0] == 2 * heights[1]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"epoch": 1}',
        '{"epoch": 1, "loss": NaN}',
        '{"epoch": 1, "loss": "x"}',
        '{"epoch": true, "loss": 1}',
        LINE + "\n\n" + LINE,
    ],
)
def test_a_log_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "context.log.jsonl").write_text(text)
    with pytest.raises(TrainingError, match=r"context\.log\.jsonl, line [12]"):
        plot_logs(tmp_path, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(TrainingError, match="nothing to draw"):
        plot_logs(tmp_path, tmp_path / "plot.png")
    (tmp_path / "context.log.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="cannot be read"):
        plot_logs(tmp_path, tmp_path / "plot.png")
    (tmp_path / "context.log.jsonl").write_text(LINE + "\n")
    plot_logs(tmp_path, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
