"""A short run of the campaign: atheris starts, measures coverage and finds nothing in a few thousand executions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import fuzzed

pytest.importorskip("atheris", reason="atheris is not installed; it has wheels for x86-64 Linux: pip install '.[fuzz]'")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest", "jsonl", "plain_pickle"])
def test_a_short_run_under_atheris(name: str, tmp_path: Path) -> None:
    done = fuzzed(name, 1500, tmp_path, seed=1)
    assert done["executions"] >= 1500
    assert done["executions"] == done["libfuzzer_executions"]
    assert done["edges"] > 50
    assert done["corpus_files"] > done["seeds"]
    assert done["findings"] == []
