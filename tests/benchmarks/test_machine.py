"""What is told of the machine that figures were measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffpose_edge.benchmarks.machine import governor, processor, versions


def test_every_cores_governor_is_told_once(tmp_path: Path) -> None:
    assert governor(tmp_path) is None
    for core, setting in enumerate(("performance", "powersave", "performance")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{setting}\n")
    (tmp_path / "cpuidle").mkdir()
    assert governor(tmp_path) == "performance, powersave"


def test_what_is_not_installed_has_no_version() -> None:
    assert versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


def test_a_processor_has_a_name() -> None:
    assert processor().strip()
