"""An engine of an Orin in a bundle, for tests of records and of what is said when no engine fits."""

from __future__ import annotations

import pytest

from diffpose_edge.bundle import Bundle, sha256_of
from diffpose_edge.engines import EngineRecord, Target, load_engine
from diffpose_edge.errors import EngineMismatch

PLAN = b"ftrt" + bytes(range(200))
ORIN = Target("tensorrt", "10.3.0.30", 87)


def record_of(bundle: Bundle) -> EngineRecord:
    """Of an engine of the step graph that fits ORIN."""
    return EngineRecord(
        role="step",
        precision="fp32",
        graph="fp32",
        flavour="tensorrt",
        version="10.3.0.30",
        sm=87,
        onnx_sha256=bundle.manifest.files["step.fp32.onnx"].sha256,
        sha256=sha256_of(PLAN),
        bytes=len(PLAN),
        made={"seconds": 1.5, "gpu": "Orin", "warnings": ["one"], "options": {"workspace_mib": None}},
    )


def mismatch(bundle: Bundle, target: Target = ORIN, role: str = "step", precision: str = "fp32") -> str:
    """What is said when nothing fits; the command that builds it is always in it."""
    with pytest.raises(EngineMismatch) as caught:
        load_engine(bundle, role, precision, target)
    text = str(caught.value)
    assert f"diffpose-edge build {bundle.path} --precision {precision} --flavour {target.flavour}" in text
    return text
