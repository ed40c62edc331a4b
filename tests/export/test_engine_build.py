"""Engines of every precision, built for real with TensorRT-RTX, which needs no GPU for it; and what is asked of the builder."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import onnx.parser
import pytest

import diffpose_edge.extras
from diffpose_edge.bundle import Bundle, load_bundle, sha256_of
from diffpose_edge.engines import ENGINE_ROLES, EngineRecord, Target, engine_records, load_engine
from diffpose_edge.errors import BundleError, DiffPoseEdgeError, EngineError, ExportError, MissingPackage
from diffpose_edge.export import engine_build
from diffpose_edge.export.bundle_engines import build_engines, device_here
from diffpose_edge.export.engine_build import BuildOptions, built_plan
from diffpose_edge.export.start_graph import start_graph
from diffpose_edge.export.tensorrt_rtx import launches_of
from diffpose_edge.runtime.tensorrt_messages import logger_of

pytestmark = [
    pytest.mark.skipif(not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="TensorRT-RTX is for x86-64 alone"),
    # polygraphy sets a timing cache, which TensorRT-RTX has no use for.
    pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning"),
]

PRECISIONS = ("fp32", "fp16", "int8")


class Built(NamedTuple):
    """A bundle with engines of every precision, and what was heard while they were built."""

    bundle: Bundle
    records: dict[str, tuple[EngineRecord, ...]]
    heard: list[tuple[str, str, bool]]
    phases: list[tuple[str, int, int]]

    def plan(self, role: str, precision: str) -> tuple[EngineRecord, bytes]:
        version = self.records["fp32"][0].version
        return load_engine(self.bundle, role, precision, Target("rtx", version, 120))


@pytest.fixture(scope="module")
def made(calibrated_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    bundle = load_bundle(Path(shutil.copytree(calibrated_bundle, tmp_path_factory.mktemp("engines") / "bundle")))
    heard: list[tuple[str, str, bool]] = []
    phases: list[tuple[str, int, int]] = []
    records = {}
    for precision in PRECISIONS:
        records[precision] = build_engines(
            bundle,
            precision,
            "rtx",
            heard=lambda role, building, precision=precision: heard.append((precision, role, building)),
            progress=lambda *phase: phases.append(phase),
        )
    return Built(bundle, records, heard, phases)


def test_every_precision_has_its_engines_and_all_share_the_start(made: Built) -> None:
    expected = [("fp32", role, True) for role in ENGINE_ROLES]
    for precision in ("fp16", "int8"):
        expected += [(precision, "context", True), (precision, "step", True), (precision, "start", False)]
    assert made.heard == expected
    names = {f"{role}.{precision}" for role in ("context", "step") for precision in PRECISIONS} | {"start.fp32"}
    [folder] = (made.bundle.path / "engines").iterdir()
    assert folder.name == f"rtx-{made.records['fp32'][0].version}-any"
    assert {p.name for p in folder.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("engine", "json", "layers.txt")}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_records_tell_of_what_was_built_from_what(made: Built, precision: str) -> None:
    here = device_here()
    for role, record in zip(ENGINE_ROLES, made.records[precision], strict=True):
        own = precision if role != "start" else "fp32"
        assert (record.role, record.precision, record.graph, record.flavour, record.sm) == (role, own, own, "rtx", None)
        source = start_graph(made.bundle.manifest).SerializeToString(deterministic=True) if role == "start" else made.bundle.read(role, own)
        assert record.onnx_sha256 == sha256_of(source)
        content = (made.bundle.path / record.name).read_bytes()
        assert (record.sha256, record.bytes) == (sha256_of(content), len(content))
        assert made.plan(role, precision) == (record, content)
        assert (record.made["gpu"], record.made["machine"]) == (here.name if here else None, "x86_64")
        assert 0 < record.made["seconds"] < 60
        assert record.made["warnings"] == []
        assert record.made["options"] == BuildOptions().as_json()
    there = [record for _, record in engine_records(made.bundle)]
    assert all(record in there for record in made.records[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_compute_in_their_precision(made: Built, precision: str) -> None:
    record, _ = made.plan("step", precision)
    listing = (made.bundle.path / record.name).with_suffix(".layers.txt").read_text()
    matmuls = {launch.precision for launch in launches_of(listing) if launch.is_matmul}
    wanted = {"fp32": {"fp32"}, "fp16": {"fp16"}, "int8": {"int8"}}[precision]
    assert wanted <= matmuls
    if precision == "fp32":
        assert matmuls == wanted


def test_engines_leave_the_bundle_as_it_was(made: Built, calibrated_bundle: Path) -> None:
    assert load_bundle(made.bundle.path).manifest == load_bundle(calibrated_bundle).manifest
    for path in calibrated_bundle.iterdir():
        assert (made.bundle.path / path.name).read_bytes() == path.read_bytes()


def test_the_phases_of_a_build_are_told_from_beginning_to_end(made: Built) -> None:
    assert made.phases
    for name in {phase[0] for phase in made.phases}:
        own = [(done, total) for phase, done, total in made.phases if phase == name]
        assert own[0][0] == 0
        assert own[-1][0] == own[-1][1]
        assert all(0 <= done <= total for done, total in own)


# --- what is asked of the builder ---


def config_of(options: BuildOptions) -> tuple[Any, Any]:
    """The builder's configuration as TensorRT-RTX sees it, and its module."""
    trt, polygraphy = engine_build.tensorrt_and_polygraphy("rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return engine_build._config(trt, polygraphy, options, (), None)(builder, network), trt


def test_by_default_there_is_one_stream_no_tf32_and_a_detailed_plan() -> None:
    config, trt = config_of(BuildOptions())
    assert config.max_aux_streams == 0
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert not config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def test_workspace_and_level_reach_the_builder() -> None:
    config, trt = config_of(BuildOptions(workspace_mib=17, optimisation_level=2))
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 17 * 2**20
    assert config.builder_optimization_level == 2


def test_version_compatibility_reaches_the_builder() -> None:
    config, trt = config_of(BuildOptions(version_compatible=True))
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", ()), ("fp16", ("fp16",)), ("int8", ("fp16", "int8")), ("int8-trt8", ("fp16", "int8"))]
)
def test_flags_of_a_network_that_is_not_strongly_typed(precision: str, flags: tuple[str, ...]) -> None:
    assert engine_build._flags_for(precision) == flags


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workspace_mib": 0}, "at least 1 MiB, got 0"),
        ({"workspace_mib": -5}, "at least 1 MiB, got -5"),
        ({"optimisation_level": 6}, r"within 0\.\.5, got 6"),
        ({"optimisation_level": -1}, r"within 0\.\.5, got -1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match=said):
        BuildOptions(**options)  # type: ignore[arg-type]


# --- what is refused ---


def test_a_graph_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(ExportError, match=r"TensorRT-RTX 1\.\S+ does not build the step graph: \S"):
        built_plan(b"no ONNX file", "the step graph", "rtx", "fp32")


@pytest.mark.parametrize(
    ("logged", "remedy"),
    [
        (
            "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
            "limit what tactics may take",
        ),
        ("Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", "end other programs on the GPU"),
        ("Could not find any implementation for node Conv_0 due to insufficient workspace", "give more with --workspace"),
    ],
)
def test_a_build_that_runs_out_of_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch, logged: str, remedy: str) -> None:
    """TensorRT's words are put into its mouth: there is no GPU here whose memory could run out."""
    _, polygraphy = engine_build.tensorrt_and_polygraphy("rtx")
    trt = engine_build.tensorrt_module("rtx")

    def refuse(*_: Any, **__: Any) -> None:
        logger_of(trt).log(trt.ILogger.ERROR, logged)
        raise polygraphy.exception.PolygraphyException("Invalid Engine. Please ensure the engine was built correctly")

    monkeypatch.setattr(polygraphy.backend.trt, "engine_bytes_from_network", refuse)
    graph = least_graph()
    with pytest.raises(ExportError) as refused:
        built_plan(graph, "the step graph in fp16", "rtx", "fp16")
    assert logged in str(refused.value)
    assert remedy in str(refused.value)


def least_graph() -> bytes:
    """The least that a parser takes."""
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> least (float[1,3] x) => (float[1,3] y) { h = Relu(x) y = Neg(h) }'
    )
    return bytes(graph.SerializeToString())


def test_a_bundle_that_was_not_calibrated_says_so_before_anything_is_built(conditioned_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle")))
    with pytest.raises(BundleError, match=r"the bundle has no context graph in int8.*diffpose-edge calibrate"):
        build_engines(bundle, "int8", "rtx")
    assert not (bundle.path / "engines").exists()


@pytest.mark.parametrize(("precision", "flavour"), [("int4", "rtx"), ("int8-trt8", "rtx"), ("fp32", "tensorrt_rtx"), ("fp32", "")])
def test_unknown_words_are_answered_with_the_known_ones(calibrated_bundle: Path, precision: str, flavour: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match=r"expected a (precision out of fp32, fp16, int8|flavour out of tensorrt, rtx), got '"):
        build_engines(load_bundle(calibrated_bundle), precision, flavour)


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"hardware_compatible": True}])
def test_tensorrt_rtx_has_no_compatibility_to_offer(calibrated_bundle: Path, options: dict[str, bool]) -> None:
    """It would only warn of the one, and look for a library that it does not have for the other."""
    with pytest.raises(DiffPoseEdgeError, match="its engines run on every GPU that it supports"):
        build_engines(load_bundle(calibrated_bundle), "fp32", "rtx", BuildOptions(**options))  # type: ignore[arg-type]


def test_one_process_builds_with_one_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    trt, polygraphy = engine_build.tensorrt_and_polygraphy("rtx")
    # As if TensorRT, which is not installed here, were TensorRT-RTX under its own name.
    monkeypatch.setattr(engine_build, "tensorrt_module", lambda flavour: trt)
    with pytest.raises(EngineError, match=r"has built with another TensorRT already.* build with TensorRT in another process"):
        built_plan(b"", "the step graph", "tensorrt", "fp32")
    # And goes on with it.
    assert polygraphy.config.USE_TENSORRT_RTX
    with pytest.raises(ExportError, match="does not build"):
        built_plan(b"", "the step graph", "rtx", "fp32")


@pytest.mark.parametrize(("missing", "flavour"), [("tensorrt_rtx", "rtx"), ("polygraphy", "rtx"), ("tensorrt", "tensorrt")])
def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch, missing: str, flavour: str) -> None:
    monkeypatch.setattr(diffpose_edge.extras, "is_installed", lambda module: module != missing)
    with pytest.raises(MissingPackage, match=rf"needs the package '{missing}'.*pip install {missing}"):
        built_plan(b"", "the step graph", flavour, "fp32")


def test_measured_tactics_are_put_in_place_whole_and_without_polygraphys_lock(tmp_path: Path) -> None:
    """TensorRT-RTX measures nothing: a double of what polygraphy writes."""
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"older")
    with engine_build._timing_cache(cache) as written:
        assert written is not None
        Path(written).write_bytes(b"measured")
        Path(written + ".lock").touch()
        assert cache.read_bytes() == b"older"
    assert cache.read_bytes() == b"measured"
    with engine_build._timing_cache(cache), engine_build._timing_cache(None) as nowhere:
        assert nowhere is None
    assert [path.name for path in tmp_path.iterdir()] == ["timing.cache"]
    assert cache.read_bytes() == b"measured"
