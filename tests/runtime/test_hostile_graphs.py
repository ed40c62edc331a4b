"""A stranger's bundle in the runtime: its graphs can neither read another file nor hide what they fail with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.bundle import MANIFEST, load_bundle, sha256_of
from diffpose_edge.engines import EngineRecord, engine_records, save_engine
from diffpose_edge.errors import BundleError, DiffPoseEdgeError, OutputError
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.timings import MachineTimings, Spread, all_timings, save_timings

STEP = "step.fp32-cpu.onnx"


def altered(bundle: Path, out: Path, change: Callable[[onnx.ModelProto], object], name: str = STEP) -> Path:
    """A copy of a bundle with one graph changed and the manifest made to fit: what somebody who hands out bundles can do."""
    shutil.copytree(bundle, out)
    model = onnx.load(str(out / name))
    change(model)
    content = model.SerializeToString()
    (out / name).write_bytes(content)
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] |= {"sha256": sha256_of(content), "bytes": len(content)}
    (out / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return out


def keep_outside(model: onnx.ModelProto, location: str) -> None:
    """Let the largest constant be read from another file, as ONNX's external data."""
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)


def test_a_graph_that_names_a_file_outside_is_refused_before_onnx_runtime_sees_it(
    golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(np.ones(10**6, np.float32).tobytes())
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)  # ONNX Runtime looks there where a graph comes as bytes
    seen: list[bytes] = []
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda content, *_, **__: seen.append(content))
    for i, location in enumerate(("../secret", "secret", str(tmp_path / "secret"))):
        bundle = altered(golden_bundle, tmp_path / f"b{i}", lambda model, at=location: keep_outside(model, at))
        with pytest.raises(BundleError, match="keeps constants in another file, which could be any file of this machine"):
            PoseRuntime.load(bundle)
    assert not seen


def test_a_graph_of_other_shapes_than_the_manifest_says_is_refused(golden_bundle: Path, tmp_path: Path) -> None:
    def flat(model: onnx.ModelProto) -> None:
        """Every output becomes a single number, which has no first size to look at."""
        del model.graph.node[:]
        for value in model.graph.output:
            model.graph.initializer.append(numpy_helper.from_array(np.array(1.0, np.float32), f"{value.name}/one"))
            model.graph.node.append(helper.make_node("Identity", [f"{value.name}/one"], [value.name]))
            value.type.tensor_type.shape.ClearField("dim")

    with pytest.raises(BundleError, match="the step graph takes or gives"):
        PoseRuntime.load(altered(golden_bundle, tmp_path / "b", flat))


def swollen(model: onnx.ModelProto) -> None:
    """Let the last node's result pass through 16 GB: an Expand, which our own graphs have too, and a sum that is nothing."""
    graph = model.graph
    name = graph.output[0].name
    last = next(node for node in graph.node if name in node.output)
    last.output[list(last.output).index(name)] = "real"
    graph.initializer.append(numpy_helper.from_array(np.array([4096, 1024, 1024], np.int64), "wide"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1], np.int64), "starts"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0], np.int64), "least"))
    graph.node.extend(
        [
            helper.make_node("Slice", ["real", "least", "starts"], ["first"]),
            helper.make_node("Expand", ["first", "wide"], ["huge"]),
            helper.make_node("Slice", ["huge", "least", "starts"], ["small"]),
            helper.make_node("Sub", ["small", "first"], ["nothing"]),
            helper.make_node("Add", ["real", "nothing"], [name]),
        ]
    )


LOADED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from diffpose_edge.errors import BundleError
from diffpose_edge.runtime import PoseRuntime
try:
    PoseRuntime.load(sys.argv[1], threads=1).close()
    print("loaded")
except BundleError as err:
    print("refused:", err)
"""


def test_under_a_memory_limit_a_graph_that_swells_is_refused_at_load_and_not_in_the_middle_of_a_walk(
    golden_bundle: Path, tmp_path: Path
) -> None:
    def loaded(bundle: Path) -> str:
        run = subprocess.run([sys.executable, "-c", LOADED, bundle], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert loaded(golden_bundle) == "loaded\n"  # the control: the limit itself lets a bundle through
    said = loaded(altered(golden_bundle, tmp_path / "b", swollen))
    assert said.startswith("refused: ONNX Runtime")
    assert "the step graph" in said


@pytest.mark.parametrize("where", ["timings", "engines/tensorrt-10.3-sm87"])
def test_records_beside_a_bundle_are_neither_waited_for_nor_followed_out_of_it(golden_bundle: Path, tmp_path: Path, where: str) -> None:
    def read(bundle: Any) -> None:
        for _ in (engine_records if where.startswith("engines") else all_timings)(bundle):
            pass

    for kind, said in (
        ("pipe", "is a pipe, a socket or a device"),
        ("link", "leads out of the bundle"),
        ("large", "and up to"),
        ("deep", "not a"),
    ):
        bundle = Path(shutil.copytree(golden_bundle, tmp_path / kind))
        (bundle / where).mkdir(parents=True)
        record = bundle / where / "step.fp32.json"
        if kind == "pipe":
            os.mkfifo(record)
        elif kind == "link":
            (tmp_path / "outside").write_text("{}", encoding="utf-8")
            record.symlink_to(tmp_path / "outside")
        elif kind == "large":
            with open(record, "wb") as file:
                file.truncate(1 << 40)
        else:
            record.write_text('{"format": ' + "[" * 50_000, encoding="utf-8")
        with pytest.raises(DiffPoseEdgeError, match=said):
            read(load_bundle(bundle))


def test_nothing_is_written_through_a_link_that_leads_out_of_the_bundle(golden_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(shutil.copytree(golden_bundle, tmp_path / "b"))
    (tmp_path / "outside").mkdir()
    for name in ("timings", "engines"):
        (bundle.path / name).symlink_to("../outside")
    took = Spread(1.0, 2.0)
    with pytest.raises(OutputError, match="a link in the bundle leads out of it"):
        save_timings(bundle, MachineTimings({"machine": {}}, {1: took}, {1: took}, took))
    record = EngineRecord("step", "fp32", "fp32", "tensorrt", "10.3.0", 87, "0" * 64, sha256_of(b"plan"), 4)
    with pytest.raises(OutputError, match="a link in the bundle leads out of it"):
        save_engine(bundle, record, b"plan")
    assert not [path for path in (tmp_path / "outside").rglob("*") if path.is_file()]
