"""Quantises graphs with nvidia-modelopt; run by the Python of an environment that has it, which need not have this project.

Run: ``PYTHON modelopt_side.py JOB.json``. The file holds ``model``, ``data`` (npz with an array for each input, runs one
after another along the first axis), ``out``, and ``options`` for ``modelopt.onnx.quantization.quantize``. Prints the
versions of what did the work as one line of JSON, last. :mod:`diffpose_edge.benchmarks.quantizer_comparison` calls it.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main(path: Path) -> None:
    """Do one job. It tampers with ONNX Runtime's quantiser for the whole process, so the next one wants a fresh one."""
    import numpy as np
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found, unused-ignore]

    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    with np.load(job["data"], allow_pickle=False) as content:
        data = dict(content)
    # The machine decides nothing: with a GPU it would calibrate there.
    quantize(job["model"], quantize_mode="int8", calibration_data=data, calibration_eps=["cpu"], output_path=job["out"], **job["options"])
    runtime = next(name for name in ("onnxruntime-gpu", "onnxruntime") if _has(name))
    print(json.dumps({name: version(name) for name in ("nvidia-modelopt", runtime, "onnx")}))


def _has(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
