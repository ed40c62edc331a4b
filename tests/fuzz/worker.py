"""One target under atheris, in a process of its own: ``python -m tests.fuzz.worker TARGET RUNS CORPUS OUT SEED``. Started by the campaign.

A finding does not end it: it is written to ``OUT`` with its input, once for each place in the code, and the run goes on. What does end
it, a process that dies or hangs, libFuzzer itself notices, and leaves the input in ``OUT``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

# Inputs, in bytes; seconds until libFuzzer takes an execution for one that never ends; and what the whole process may take.
MOST_BYTES, HANG_S, MOST_MB = 1 << 16, 20, 2048
# Of one kind in one place no more than the first is kept.
MOST_FINDINGS = 100


def main() -> None:
    """Fuzz until the runs are done. libFuzzer ends the process itself."""
    name, runs, corpus, out, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])
    import atheris

    # Only what is imported within is measured: our own code, and the standard library's pickle, which plain_pickle.py drives.
    with atheris.instrument_imports(include=["diffpose_edge", "pickle"]):
        from tests.fuzz.targets import target_named

        target = target_named(name)
    from tests.fuzz.rule import outcome_of

    findings: dict[str, dict[str, Any]] = {}
    state = {"executions": 0, "refused": 0, "slowest_s": 0.0, "cpu_s": 0.0}

    def write_state() -> None:
        temporary = out / "state.tmp"
        temporary.write_text(json.dumps({**state, "findings": list(findings.values())}))
        os.replace(temporary, out / "state.json")

    def one(data: bytes) -> None:
        outcome = outcome_of(target.run, data, target.allowed)
        state["executions"] += 1
        state["refused"] += outcome.refused
        state["cpu_s"] += outcome.seconds
        state["slowest_s"] = max(state["slowest_s"], outcome.seconds)
        found = outcome.finding
        if found is not None and f"{found.kind} {found.where}" not in findings and len(findings) < MOST_FINDINGS:
            digest = hashlib.sha256(data).hexdigest()[:12]
            (out / f"{name}-{digest}").write_bytes(data)
            findings[f"{found.kind} {found.where}"] = {"kind": found.kind, "what": found.what, "where": found.where, "input": digest}
            write_state()
        if state["executions"] % 500 == 0 or state["executions"] >= runs:
            write_state()

    def mutate(data: bytes, most: int, number: int) -> bytes:
        return target.mutate(data, Random(number), lambda part: atheris.Mutate(part, len(part) + 64))[:most]

    options = [
        f"-runs={runs}", f"-seed={seed}", f"-max_len={MOST_BYTES}", f"-timeout={HANG_S}", f"-rss_limit_mb={MOST_MB}",
        f"-artifact_prefix={out}/", "-print_final_stats=1", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, corpus], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
