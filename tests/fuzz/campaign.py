"""Runs every target for a number of executions and records what came of it.

``python -m tests.fuzz.campaign --runs 40000 --work FOLDER``. Each target has a process of its own, begins with the committed seeds and
with what was a finding once, and keeps what reaches new code in ``FOLDER/corpus``, with which it goes on when it is started again. The
record, ``benchmarks/results/fuzzing.json``, is written after every target, so that a campaign can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.fuzz.target import HERE
from tests.fuzz.targets import ALL, target_named

ROOT = HERE.parents[1]
RECORD = ROOT / "benchmarks" / "results" / "fuzzing.json"
PACKAGES = ("atheris", "numpy", "torch", "safetensors", "rosbags", "cyclonedds")
# How much more or less than the others: reading a checkpoint takes ten milliseconds, a table a fifth of one.
SHARES = {
    "checkpoint_zip": 0.1, "checkpoint_legacy": 0.2, "safetensors_denoiser": 0.1, "safetensors_context": 0.05, "dataset": 0.3,
    "bag_mcap": 0.3, "viewer_result": 0.25, "videopose3d": 0.3, "npz_clip": 0.3, "mmpose_folder": 0.25, "mmpose": 0.4, "openpose": 0.3,
    "alphapose": 0.4, "coco_results": 0.3, "evaluation": 0.5, "dds": 0.6, "manifest": 1.5, "plain_pickle": 2.0, "engine_record": 0.8,
    "calibration": 1.5, "schedules": 1.5, "skeleton2d": 1.5, "csv": 1.5, "trc": 1.5, "jsonl": 1.2,
}  # fmt: skip


def fuzzed(name: str, runs: int, work: Path, seed: int) -> dict[str, Any]:
    """Run one target and return its record."""
    target = target_named(name)
    corpus, out = work / "corpus" / name, work / "out" / name
    shutil.rmtree(out, ignore_errors=True)
    for folder in (corpus, out):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = [*target.seeds(), *target.found()]
    for path in seeds:
        shutil.copy(path, corpus / f"seed-{path.name}")
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.worker", name, str(runs), str(corpus), str(out), str(seed)]
    with open(out / "log.txt", "wb") as log:
        ended = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    text = (out / "log.txt").read_text(errors="replace")
    state = json.loads((out / "state.json").read_text()) if (out / "state.json").exists() else {"executions": 0, "findings": []}
    findings = list(state.pop("findings"))
    # What libFuzzer stopped at: a process that died, took too much memory or did not come back.
    findings += [
        {"kind": "died", "what": path.name, "where": "", "input": path.name} for path in sorted(out.glob("*-*")) if _stopped_at(path)
    ]
    if ended.returncode and not findings:
        findings.append({"kind": "died", "what": f"the process ended with {ended.returncode}", "where": "", "input": ""})
    kept = [path for path in corpus.iterdir() if path.is_file()]
    return {
        **{key: round(value, 3) if isinstance(value, float) else value for key, value in state.items()},
        "libfuzzer_executions": _last(r"number_of_executed_units: (\d+)", text),
        "edges": _last(r"cov: (\d+)", text),
        "features": _last(r"ft: (\d+)", text),
        "seeds": len(seeds),
        "corpus_files": len(kept),
        "corpus_bytes": sum(path.stat().st_size for path in kept),
        "peak_rss_mb": _last(r"peak_rss_mb: +(\d+)", text),
        "wall_s": round(time.monotonic() - began, 1),
        "findings": findings,
    }


def _stopped_at(path: Path) -> bool:
    return path.name.startswith(("crash-", "timeout-", "oom-", "leak-"))


def _last(pattern: str, text: str) -> int | None:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None


def commit() -> str:
    """Return what is run: the commit, and whether the code differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    altered = git("status", "--porcelain", "--", "diffpose_edge", "runtime", "reference", "calibration", "export")
    return git("rev-parse", "--short=12", "HEAD") + (" with changes that were not committed" if altered else "")


def main() -> None:
    """Run what the arguments say, print a line for each target, and exit with 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=ALL, help="names; all of them without any")
    parser.add_argument("--runs", type=int, default=40_000, help="executions of each target, times its share")
    parser.add_argument("--work", type=Path, required=True, help="a folder for corpus and findings")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="targets at once, a core each")
    parser.add_argument("--go-on", action="store_true", help="keep what the record has of other targets")
    asked = parser.parse_args()
    work = asked.work.resolve()
    record: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "seed": asked.seed,
        "rule": "a DiffPoseEdgeError whose text helps, or success; within 1 s of processor time; within 256 MB more memory",
        "targets": json.loads(asked.record.read_text())["targets"] if asked.go_on else {},
    }
    of = commit()
    with ThreadPoolExecutor(asked.jobs) as pool:
        runs = {name: max(1, int(asked.runs * SHARES.get(name, 1.0))) for name in asked.targets}
        begun = {pool.submit(fuzzed, name, runs[name], work, asked.seed): name for name in asked.targets}
        for ended in as_completed(begun):
            name, done = begun[ended], {"commit": of, **ended.result()}
            record["targets"][name] = done
            rows = record["targets"].values()
            record["executions"] = sum(row["executions"] for row in rows)
            record["findings"] = sum(len(row["findings"]) for row in rows)
            record["slowest_s"] = max(row.get("slowest_s", 0.0) for row in rows)
            asked.record.parent.mkdir(parents=True, exist_ok=True)
            asked.record.write_text(json.dumps(record, indent=1) + "\n")
            print(
                f"{name}: {done['executions']} executions in {done['wall_s']} s, {done['edges']} edges, slowest {done.get('slowest_s')} s, "
                f"{len(done['findings'])} findings",
                flush=True,
            )
            for finding in done["findings"]:
                print(f"  {finding['kind']} at {finding['where']}: {finding['what'][:240]}  [{finding['input']}]", flush=True)
    sys.exit(1 if record["findings"] else 0)


if __name__ == "__main__":
    main()
