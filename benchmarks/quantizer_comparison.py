"""INT8 made here beside what onnxruntime.quantization and nvidia-modelopt make of the same graphs and the same recordings.

Run: ``python -m diffpose_edge.benchmarks.quantizer_comparison --modelopt-python PYTHON --out FOLDER``. Writes
``quantizer_comparison.json`` and ``.md``. PYTHON is the interpreter of an environment with nvidia-modelopt, whose versions of
onnx and ONNX Runtime are not this project's; without it its rows are left out.

Every tool gets the FP32 graphs of the pairs that ship and the graphs' real inputs along the reverse processes that our own
calibration walks. Judge is this project's runtime on held-out clips: ONNX Runtime computing Q/DQ in float, so that no
processor's INT8 kernel, which may saturate, has a say, and rounding every FP16 value, which it would not do by itself.
Beside the tools' defaults stand rows in which a tool is told more than it knows by itself, up to our own choice of matmuls,
so that the comparison is not with a straw man.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.accuracy_sweep import windows_of
from diffpose_edge.benchmarks.machine import processor
from diffpose_edge.bundle import Bundle
from diffpose_edge.calibration.calibrate import calibrated, deployed_schedules
from diffpose_edge.calibration.observed import FRAMES, MOST_STEPS, SEED, frames_to_use
from diffpose_edge.calibration.recording import RecordingBackend
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import say, stages
from diffpose_edge.clips import calibration_keypoints, held_out_path, trained_pair
from diffpose_edge.comparison import added_error
from diffpose_edge.errors import DiffPoseEdgeError, ExportError
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.export.layer_groups import border_nodes, matmul_macs, taps_of, weight_matmuls
from diffpose_edge.export.precision import PrecisionPlan, lowered_graph
from diffpose_edge.extras import is_installed
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.metrics import mpjpe
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.estimate import PoseEstimate
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.start import MODES
from diffpose_edge.schedule import trailing_timesteps

Array = NDArray[Any]
Inputs = Mapping[str, Array]  # the inputs of a graph, one run after another along the first axis
STEPS = (5, 50)
# A schedule of more than MOST_STEPS steps is judged on every third of the frames: it costs ten times as much.
SPARSE = 3
MULTIPLIES = ("MatMul", "Gemm", "Conv")
# The order in which they are told of.
KINDS = {"ours": "this project", "default": "a tool's defaults", "helped": "a tool that was helped", "floor": "no INT8"}
BOTH, STEP = "both graphs", "step alone"

# What it takes for TensorRT to read what ONNX Runtime writes: symmetric activations, and no int32 biases.
FOR_TENSORRT = {"per_channel": True, "extra_options": {"ActivationSymmetric": True, "QuantizeBias": False}}
# Nothing but MatMuls, and of these only what goes in.
MATMULS_ALONE = {
    "op_types_to_quantize": ["MatMul"],
    "per_channel": True,
    "extra_options": {"ActivationSymmetric": True, "QuantizeBias": False, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
}


@dataclass(frozen=True)
class Candidate:
    """Graphs by role, in the form of ``name``; ``kind`` is one of KINDS."""

    name: str
    kind: str
    graphs: Mapping[str, bytes]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands recorded inputs to ONNX Runtime's calibrators, run by run."""

    def __init__(self, inputs: Inputs, first_sizes: Mapping[str, int]):
        parts = {name: np.split(array, len(array) // first_sizes[name]) for name, array in inputs.items()}
        self._runs = iter([dict(zip(parts, run, strict=True)) for run in zip(*parts.values(), strict=True)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._runs, None)


def recorded_inputs(bundle: Bundle, keypoints: Keypoints, frames: int = FRAMES) -> dict[str, Inputs]:
    """Return the inputs of both graphs along every trajectory that our calibration observes, by role."""
    runs: dict[str, list[dict[str, Array]]] = {role: [] for role in GRAPHS}
    watched = {"context": list(bundle.manifest.context_io[0]), "step": list(bundle.manifest.step_io[0])}
    F = bundle.manifest.shape.F
    backend = RecordingBackend(bundle, watched, lambda role, timestep, values: runs[role].append(values), threads=1)
    with PoseRuntime(bundle, backend) as runtime:
        for schedule in deployed_schedules(bundle.manifest):
            most = frames if len(schedule) <= MOST_STEPS else max(F, frames * MOST_STEPS // len(schedule))
            clip = frames_to_use(keypoints, F, most)
            for mode in MODES[bundle.manifest.process.kind]:
                for _ in runtime.estimate_clip(clip, SEED, timesteps=schedule, mode=mode):
                    pass
    return {role: {name: np.concatenate([run[name] for run in runs[role]]) for name in watched[role]} for role in GRAPHS}


def by_onnxruntime(content: bytes, inputs: Inputs, *, prepare: bool, **options: Any) -> bytes:
    """Return what ``quantize_static`` makes of a graph; ``prepare``: after the pre-processing that its documentation asks for."""
    model = onnx.load_model_from_string(content)
    first_sizes = {value.name: value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input}
    with tempfile.TemporaryDirectory() as temporary:
        source, made = Path(temporary) / "graph.onnx", Path(temporary) / "quantised.onnx"
        source.write_bytes(content)
        logging.disable(logging.WARNING)  # the advice to pre-process, which is ours to take or not
        try:
            if prepare:
                quant_pre_process(source, source)
            quantize_static(source, made, Reader(inputs, first_sizes), **options)
        finally:
            logging.disable(logging.NOTSET)
        return made.read_bytes()


def by_modelopt(python: Path, content: bytes, inputs: Inputs, **options: Any) -> tuple[bytes, dict[str, str]]:
    """Return what nvidia-modelopt makes of a graph, and the versions that made it. Raises DiffPoseEdgeError when it fails."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = {"model": str(folder / "graph.onnx"), "data": str(folder / "data.npz"), "out": str(folder / "quantised.onnx")}
        Path(job["model"]).write_bytes(content)
        np.savez(job["data"], allow_pickle=False, **inputs)
        (folder / "job.json").write_text(json.dumps({**job, "options": options}), encoding="utf-8")
        command = [str(python), str(Path(__file__).with_name("modelopt_side.py")), str(folder / "job.json")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if ended.returncode != 0:
            raise DiffPoseEdgeError(f"nvidia-modelopt did not quantise the graph: {ended.stderr[-1000:]}")
        return Path(job["out"]).read_bytes(), json.loads(ended.stdout.splitlines()[-1])


def told_apart(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the graph with a number before each node's name, and the new names by the old ones.

    nvidia-modelopt looks for the nodes that it wants to leave out by regular expressions that need to match only a name's
    beginning: whoever leaves out ``node_matmul`` leaves out ``node_matmul_7`` as well.
    """
    model = onnx.load_model_from_string(content)
    names = {node.name: f"{i:05d}/{node.name}" for i, node in enumerate(model.graph.node)}
    for node in model.graph.node:
        node.name = names[node.name]
    return model.SerializeToString(), names


def our_matmuls(bundle: Bundle, role: str) -> list[str]:
    """Return the names of the nodes that our calibration gives scales to."""
    model, taps = onnx.load_model_from_string(bundle.read(role)), taps_of(bundle.manifest, role)
    border = border_nodes(model, taps)
    return [matmul.node for matmul in weight_matmuls(model, taps) if matmul.node not in border]


def own_candidates(bundle: Bundle, keypoints: Keypoints, frames: int = FRAMES) -> list[Candidate]:
    """Return the graphs of this project: INT8 as ``diffpose-edge calibrate`` makes it, INT8 in both graphs, and FP16."""
    calibration = calibrated(bundle, keypoints, frames=frames)

    def lowered(precision: str, plan: PrecisionPlan) -> dict[str, bytes]:
        models = {role: onnx.load_model_from_string(bundle.read(role)) for role in GRAPHS}
        return {role: lowered_graph(model, bundle.manifest, role, precision, plan).content for role, model in models.items()}

    return [
        Candidate("this project", "ours", lowered("int8", calibration.plan)),
        Candidate("this project, the encoder in INT8 too", "ours", lowered("int8", replace(calibration.plan, int8=calibration.scales))),
        Candidate("this project, FP16", "floor", lowered("fp16", calibration.plan)),
    ]


def onnxruntime_candidates(bundle: Bundle, inputs: Mapping[str, Inputs]) -> list[Candidate]:
    """Return ONNX Runtime's graphs: by default, as TensorRT reads them, and helped."""
    fp32 = {role: bundle.read(role) for role in GRAPHS}

    def made(name: str, kind: str, prepare: bool, options: Callable[[str], dict[str, Any]]) -> Candidate:
        return Candidate(
            f"onnxruntime, {name}",
            kind,
            {role: by_onnxruntime(fp32[role], inputs[role], prepare=prepare, **options(role)) for role in GRAPHS},
        )

    return [
        made("defaults", "default", True, lambda role: {}),
        made("defaults, symmetric for TensorRT", "default", True, lambda role: FOR_TENSORRT),
        made("only matmuls", "helped", False, lambda role: MATMULS_ALONE),
        made("our choice of matmuls", "helped", False, lambda role: {**MATMULS_ALONE, "nodes_to_quantize": our_matmuls(bundle, role)}),
    ]


def modelopt_candidates(bundle: Bundle, inputs: Mapping[str, Inputs], python: Path) -> tuple[list[Candidate], dict[str, str]]:
    """Return nvidia-modelopt's graphs, by default and helped, and the versions that made them."""
    versions: dict[str, str] = {}

    def made(name: str, kind: str, apart: bool, options: Callable[[str, Mapping[str, str]], dict[str, Any]]) -> Candidate:
        graphs = {}
        for role in GRAPHS:
            content, names = told_apart(bundle.read(role)) if apart else (bundle.read(role), {})
            graphs[role], found = by_modelopt(python, content, inputs[role], **options(role, names))
            versions.update(found)
        return Candidate(f"modelopt, {name}", kind, graphs)

    def ours(role: str, names: Mapping[str, str]) -> dict[str, Any]:
        return {"nodes_to_quantize": [f"{re.escape(names[name])}$" for name in our_matmuls(bundle, role)], "calibration_method": "max"}

    gentle = {"op_types_to_quantize": ["MatMul"], "calibration_method": "max", "high_precision_dtype": "fp32"}
    candidates = [
        made("defaults", "default", False, lambda role, names: {}),
        made("defaults, names told apart", "helped", True, lambda role, names: {}),
        made("only matmuls, min-max, FP32 around", "helped", True, lambda role, names: gentle),
        made("our choice of matmuls, min-max", "helped", True, ours),
    ]
    return candidates, versions


class Judge:
    """Held-out frames with their truth, and what the FP32 graphs make of them at each K of ``steps``."""

    def __init__(self, bundle: Bundle, uv: Array, confidence: Array, truth: Array, steps: Sequence[int] = STEPS):
        self.bundle, self.uv, self.confidence, self.truth = bundle, uv, confidence, truth
        self.schedules = {K: trailing_timesteps(bundle.manifest.T, K) for K in steps}
        self.chosen = {K: slice(None, None, SPARSE if K > MOST_STEPS else 1) for K in steps}
        self.fp32 = {role: bundle.read(role) for role in GRAPHS}
        self._exact = self._walked(self.fp32)

    @property
    def frames(self) -> dict[str, int]:
        """How many frames are judged at each K."""
        return {str(K): len(self.truth[chosen]) for K, chosen in self.chosen.items()}

    def judged(self, graphs: Mapping[str, bytes]) -> dict[str, dict[str, float]]:
        """Return the added error (mm) and the change of MPJPE (%) at each K; a role that is left out keeps its FP32 graph."""
        results = {}
        for K, made in self._walked({**self.fp32, **graphs}).items():
            exact, truth = self._exact[K], self.truth[self.chosen[K]]
            assert made.trajectory is not None
            assert exact.trajectory is not None
            added = added_error(made.joints, exact.joints, made.trajectory, exact.trajectory)
            change = 100.0 * (float(mpjpe(made.joints, truth)) / float(mpjpe(exact.joints, truth)) - 1.0)
            figures = {"mean_mm": added.mean, "p99_mm": added.p99, "worst_mm": added.worst, "mpjpe_change_percent": change}
            results[str(K)] = {name: round(value, 4) for name, value in figures.items()}
        return results

    def _walked(self, graphs: Mapping[str, bytes]) -> dict[int, PoseEstimate]:
        estimates = {}
        rounded = {role: with_fp16_rounding(content) for role, content in graphs.items()}
        with PoseRuntime(self.bundle, OnnxRuntimeBackend(self.bundle.manifest, rounded, threads=1)) as runtime:
            for K, schedule in self.schedules.items():
                some = self.chosen[K]
                estimates[K] = runtime.estimate(self.uv[some], self.confidence[some], SEED, timesteps=schedule, trace=True)
        return estimates


def facts_of(content: bytes, fp32: bytes) -> dict[str, Any]:
    """Return how many multiplications of a graph are quantised, their share of the FP32 graph's MACs, and what TensorRT-RTX makes of it.

    A MatMul, Gemm or Conv is quantised when both of what it multiplies was dequantised; a Cast, or a Mul by a constant, may
    stand between.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content), data_prop=True)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values} | constants
    producer = {value: node for node in model.graph.node for value in node.output}

    def dequantised(value: str) -> bool:
        node = producer.get(value)
        if node is None:
            return False
        if node.op_type == "Cast" or (node.op_type == "Mul" and node.input[1] in constants):
            return dequantised(node.input[0])
        return node.op_type == "DequantizeLinear"

    def macs(node: onnx.NodeProto) -> int:
        per_output = np.prod(shapes[node.input[1]][1:]) if node.op_type == "Conv" else shapes[node.input[0]][-1]
        return int(np.prod(shapes[node.output[0]]) * per_output)

    multiplies = [node for node in model.graph.node if node.op_type in MULTIPLIES]
    quantised = [node for node in multiplies if dequantised(node.input[0]) and dequantised(node.input[1])]
    counts = Counter(node.op_type for node in model.graph.node)
    return {
        "quantised": len(quantised),
        "multiplications": len(multiplies),
        "int8_mac_share": round(sum(macs(node) for node in quantised) / matmul_macs(onnx.load_model_from_string(fp32)), 4),
        "qdq_nodes": counts["QuantizeLinear"] + counts["DequantizeLinear"],
        "opset": next(entry.version for entry in model.opset_import if entry.domain == ""),
        "tensorrt_rtx": tensorrt_rtx_facts(content),
    }


def tensorrt_rtx_facts(content: bytes) -> dict[str, Any] | None:
    """Return the matmuls of the built plan by precision, or why it does not build; None where TensorRT-RTX is not installed."""
    if not (is_installed("tensorrt_rtx") and is_installed("polygraphy")):
        return None
    from diffpose_edge.export.tensorrt_rtx import built

    try:
        report = built(content, "the graph")
    except ExportError as refused:
        return {"builds": False, "reason": str(refused)[:300]}
    return {"builds": True, "matmuls": report.matmuls, "launches": len(report.launches), "fused_attentions": report.fused_attentions}


def row_of(candidate: Candidate, judge: Judge) -> dict[str, Any]:
    """Return a row of the table: figures with both of a candidate's graphs, with its step graph alone, and facts of its graphs."""
    errors = {BOTH: judge.judged(candidate.graphs), STEP: judge.judged({"step": candidate.graphs["step"]})}
    facts = {role: facts_of(candidate.graphs[role], judge.fp32[role]) for role in GRAPHS}
    return {"name": candidate.name, "kind": candidate.kind, "error": errors, "graphs": facts}


def compared(pair: str, each: int, python: Path | None, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the rows of one pair that ships, on ``each`` frames of every held-out clip, and modelopt's versions."""
    versions: dict[str, str] = {}
    with stages(f"{pair} pair", 6 + (11 if python else 7)) as stage:
        stage(f"{pair}: export")
        bundle = export_bundle(*trained_pair(pair), folder / pair, persons=1, samples=5).bundle
        stage(f"{pair}: recording")
        keypoints = calibration_keypoints()
        inputs = recorded_inputs(bundle, keypoints)
        stage(f"{pair}: this project")
        candidates = own_candidates(bundle, keypoints)
        stage(f"{pair}: onnxruntime")
        candidates += onnxruntime_candidates(bundle, inputs)
        stage(f"{pair}: modelopt")
        if python is not None:
            others, versions = modelopt_candidates(bundle, inputs, python)
            candidates += others
        stage(f"{pair}: FP32 graphs")
        judge = Judge(bundle, *windows_of(load_evaluation(held_out_path()), bundle.manifest.shape.F, each))
        rows = []
        for candidate in sorted(candidates, key=lambda c: list(KINDS).index(c.kind)):
            stage(f"{pair}: {candidate.name}")
            rows.append(row_of(candidate, judge))
    runs = {"context": len(next(iter(inputs["context"].values()))), "step": len(inputs["step"]["timestep"])}
    return {"frames": judge.frames, "calibration_runs": runs, "rows": rows, "claims": claims_of(rows)}, versions


def claims_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return our mean added error (mm) beside the least of the tools' defaults, and of those that were helped, for each K."""
    claims = {}
    for which in (BOTH, STEP):
        for K in rows[0]["error"][which]:
            means = {(row["kind"], row["name"]): row["error"][which][K]["mean_mm"] for row in rows}
            ours = next(mean for (kind, _), mean in means.items() if kind == "ours")
            claim: dict[str, Any] = {"ours_mm": ours}
            for kind in ("default", "helped"):
                if others := [(mean, name) for (other, name), mean in means.items() if other == kind]:
                    mean, name = min(others)
                    claim[kind] = {"best": name, "mean_mm": mean, "ours_over_it": round(ours / mean, 3)}
            claims[f"{which}, K={K}"] = claim
    return claims


def record_of(pairs: Mapping[str, Any], modelopt: Mapping[str, str]) -> dict[str, Any]:
    """Return what is written as JSON; ``modelopt`` are the versions of the environment that it ran in, none if it did not."""
    names = ["onnxruntime", "onnx", "numpy", "torch", *(["tensorrt_rtx_cu13"] if is_installed("tensorrt_rtx") else [])]
    return {
        "what": "What INT8 adds to the final pose, by quantiser, on the same FP32 graphs and the same recorded inputs; P = 1, N = 5.",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in names},
        "modelopt": dict(modelopt),
        "notes": NOTES,
        "pairs": dict(pairs),
    }


def markdown_of(record: Mapping[str, Any]) -> str:
    """Return the record as the text that is committed beside it."""
    lines = [
        "# Quantisers compared",
        "",
        record["what"],
        "",
        f"{record['processor']}, {record['date']}; {_listed(record['versions'])}.",
        "",
    ]
    if record["modelopt"]:
        lines += [f"The other environment: {_listed(record['modelopt'])}.", ""]
    else:
        lines += ["nvidia-modelopt's rows are left out: no --modelopt-python was given.", ""]
    for pair, result in record["pairs"].items():
        steps = list(result["rows"][0]["error"][BOTH])
        runs, frames = result["calibration_runs"], {f"K = {K}:": number for K, number in result["frames"].items()}
        lines += [f"## {pair} pair", "", f"Held-out frames: {_listed(frames)}; {runs['context']} recorded runs of the context graph, "]
        lines[-1] += f"{runs['step']} of the step. Added error of a joint in mm, mean · p99 · worst, and the change of MPJPE."
        heads = [f"K = {K}, {which}" for which in (BOTH, STEP) for K in steps]
        lines += ["", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for row in result["rows"]:
            cells = [_error_cell(row["error"][which][K]) for which in (BOTH, STEP) for K in steps]
            lines.append(f"| {_title(row)} | {' | '.join(cells)} |")
        heads = [f"{role}: {what}" for role in GRAPHS for what in ("INT8 matmuls (MACs)", "Q/DQ", "TensorRT-RTX")]
        lines += ["", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for row in result["rows"]:
            cells = [cell for role in GRAPHS for cell in _graph_cells(row["graphs"][role])]
            lines.append(f"| {_title(row)} | {' | '.join(cells)} |")
        lines.append("")
        for where, claim in result["claims"].items():
            parts = [
                f"{100 * claim[kind]['ours_over_it']:.0f} % of the best {label} ({claim[kind]['best']}, {claim[kind]['mean_mm']:.2f} mm)"
                for kind, label in (("default", "default"), ("helped", "helped one"))
                if kind in claim
            ]
            lines.append(f"- {where}: ours {claim['ours_mm']:.2f} mm, {', '.join(parts)}")
        lines.append("")
    lines += ["## Notes", "", *[f"- {note}" for note in record["notes"]], ""]
    return "\n".join(lines)


def _title(row: Mapping[str, Any]) -> str:
    return (
        f"**{row['name']}**" if row["kind"] == "ours" else f"{row['name']} ({row['kind']})" if row["kind"] == "helped" else str(row["name"])
    )


def _error_cell(figures: Mapping[str, float]) -> str:
    return f"{figures['mean_mm']:.2f} · {figures['p99_mm']:.1f} · {figures['worst_mm']:.1f}, {figures['mpjpe_change_percent']:+.2f} %"


def _graph_cells(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    matmuls = f"{facts['quantised']} of {facts['multiplications']} ({100 * facts['int8_mac_share']:.0f} %)"
    rtx = facts["tensorrt_rtx"]
    if rtx is None:
        return matmuls, str(facts["qdq_nodes"]), "not tried"
    return matmuls, str(facts["qdq_nodes"]), f"{rtx['matmuls'].get('int8', 0)} INT8 kernels" if rtx["builds"] else "refused"


def _listed(versions: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


NOTES = (
    "Judged by ONNX Runtime in float emulation of Q/DQ (`session.disable_quant_qdq`): what saturates in a processor's INT8 "
    "kernels does not count. Every FP16 value is rounded, ours and others' alike (`export/fp16_rounding.py`).",
    "`onnxruntime, defaults`: `quant_pre_process`, then `quantize_static` as it comes: QInt8, activations asymmetric, one scale for "
    "each weight, min-max, every operator that it knows, the embedding's table and the DDIM update among them. TensorRT takes no "
    "zero points.",
    "`symmetric for TensorRT`: the same with `per_channel`, `ActivationSymmetric`, and without biases in int32, which TensorRT does "
    "not read.",
    "`only matmuls`: the same restricted to MatMuls, their outputs left alone, without pre-processing, which would make Gemms of "
    "some; so the DDIM update stays as it is, but input layers, output layers and attention do not.",
    "`modelopt, defaults`: entropy calibration, symmetric, FP16 around, opset 19; it calibrates on the CPU here.",
    "`names told apart`: modelopt takes node names for regular expressions that match beginnings; because it leaves out our "
    "`node_matmul`, which is small, it leaves out every other `node_matmul_…`. With a number before each name it quantises what it "
    "means to.",
    "`our choice of matmuls`: those that this project gives scales to, neither input nor output layers nor the update; what is left "
    "between such a row and `this project, the encoder in INT8 too` are smoothing and the form of the graph.",
    "A quantised matmul is a MatMul or Gemm both of whose inputs were dequantised; its MACs count against all MatMuls of the FP32 graph.",
)


def main(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results"),
    pair: Annotated[list[str] | None, typer.Option(help="A pair that ships: frame or video. May be given twice; default: both.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of each of the twelve held-out clips.", min=1)] = 8,
    modelopt_python: Annotated[Path | None, typer.Option(help="Python of an environment with nvidia-modelopt.")] = None,
) -> None:
    """Compare INT8 quantisers on the pairs that ship."""
    pairs, versions = {}, dict[str, str]()
    with tempfile.TemporaryDirectory() as temporary:
        for name in pair or ("frame", "video"):
            pairs[name], versions = compared(name, frames, modelopt_python, Path(temporary))
    record = record_of(pairs, versions)
    text = markdown_of(record)
    with atomic_file(folder / "quantizer_comparison.json") as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    with atomic_file(folder / "quantizer_comparison.md") as partial:
        partial.write_text(text, encoding="utf-8")
    say(text)


if __name__ == "__main__":
    run_script(main)
