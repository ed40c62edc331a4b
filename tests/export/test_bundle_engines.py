"""Which engines of a bundle are built, which are kept, and what an interruption leaves; the builder is a stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.engines import ENGINE_ROLES, Target, engine_records, load_engine
from diffpose_edge.errors import CudaError, EngineError, EngineMismatch, ExportError, MissingPackage, OutputError
from diffpose_edge.export import bundle_engines
from diffpose_edge.export.bundle_engines import build_engines, default_flavour, device_here
from diffpose_edge.export.engine_build import BuildOptions, BuiltPlan
from tests.runtime.cuda_double import RecordingCuda

RTX = Target("rtx", "1.7.1.116", 87)


class Builder:
    """Stands in for TensorRT: a plan tells which graph it was made of, and which build it was."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.options: list[BuildOptions] = []
        self.listing = "Layers:\n"
        self.then: Callable[[str], object] = lambda name: None

    def __call__(
        self, content: bytes, name: str, flavour: str, precision: str, options: BuildOptions, progress: object = None
    ) -> BuiltPlan:
        self.then(name)
        self.built.append(f"{name}: {precision}")
        self.options.append(options)
        return BuiltPlan(f"plan {len(self.built)} of {name} with {flavour}".encode(), 0.5, ("a warning",), self.listing)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    """No TensorRT, no GPU."""
    made = Builder()
    monkeypatch.setattr(bundle_engines, "built_plan", made)
    monkeypatch.setattr(bundle_engines, "tensorrt_module", lambda flavour: SimpleNamespace(__version__=RTX.version))
    monkeypatch.setattr(bundle_engines, "device_here", lambda index=0: None)
    return made


@pytest.fixture
def gpu(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> list[RecordingCuda]:
    """A machine with the double's GPU, SM 8.7, and TensorRT 10.3; the doubles that were opened."""
    opened: list[RecordingCuda] = []

    def opening(provider: str | None = None, device: int = 0) -> RecordingCuda:
        opened.append(RecordingCuda(index=device))
        return opened[-1]

    monkeypatch.setattr(bundle_engines, "tensorrt_module", lambda flavour: SimpleNamespace(__version__="10.3.0.30"))
    monkeypatch.setattr(bundle_engines, "open_cuda", opening)
    return opened


@pytest.fixture
def bundle(calibrated_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(calibrated_bundle, tmp_path / "bundle")))


def contents(bundle: Bundle) -> dict[str, bytes]:
    folder = bundle.path / "engines"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def roles_built(builder: Builder) -> list[str]:
    """The roles that were built since this was last asked."""
    built, builder.built = builder.built, []
    return [name.split()[1] for name in built]


# --- built, or kept ---


def test_a_second_build_keeps_what_fits_and_rebuild_builds_all(bundle: Bundle, builder: Builder) -> None:
    heard: list[tuple[str, bool]] = []
    first = build_engines(bundle, "fp16", "rtx", heard=lambda *told: heard.append(told))
    assert roles_built(builder) == list(ENGINE_ROLES)
    before = contents(bundle)
    assert build_engines(bundle, "fp16", "rtx", heard=lambda *told: heard.append(told)) == first
    assert roles_built(builder) == []
    assert contents(bundle) == before
    assert heard == [(role, True) for role in ENGINE_ROLES] + [(role, False) for role in ENGINE_ROLES]
    builder.built.append("an earlier one, so that the plans differ")
    again = build_engines(bundle, "fp16", "rtx", rebuild=True)
    assert all(new.sha256 != old.sha256 for new, old in zip(again, first, strict=True))
    assert contents(bundle).keys() == before.keys()


@pytest.mark.parametrize("role", ENGINE_ROLES)
@pytest.mark.parametrize("how", ["truncated", "altered", "engine gone", "record gone", "record damaged"])
def test_what_is_damaged_is_built_again(bundle: Bundle, builder: Builder, role: str, how: str) -> None:
    records = {record.role: record for record in build_engines(bundle, "fp32", "rtx")}
    roles_built(builder)
    engine = bundle.path / records[role].name
    record = engine.with_suffix(".json")
    if how == "truncated":
        engine.write_bytes(engine.read_bytes()[:5])
    elif how == "altered":
        engine.write_bytes(engine.read_bytes()[::-1])
    elif how.endswith("gone"):
        (engine if how.startswith("engine") else record).unlink()
    else:
        record.write_text("{")
    build_engines(bundle, "fp32", "rtx")
    built = roles_built(builder)
    # A damaged record could be of any engine: one that is looked for behind it is built again as well.
    assert role in built if how == "record damaged" else built == [role]
    assert all(load_engine(bundle, each, "fp32", RTX) for each in ENGINE_ROLES)


@pytest.mark.usefixtures("gpu")
def test_the_int8_form_of_tensorrt_8_is_built_from_and_named_as_int8(
    bundle: Bundle, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_engines, "tensorrt_module", lambda flavour: SimpleNamespace(__version__="8.6.2.3"))
    records = build_engines(bundle, "int8", "tensorrt")
    assert builder.built == ["the context graph in int8: int8-trt8", "the step graph in int8: int8-trt8", "the start graph in fp32: fp32"]
    assert [(r.precision, r.graph) for r in records] == [("int8", "int8-trt8")] * 2 + [("fp32", "fp32")]
    assert records[1].onnx_sha256 == bundle.manifest.files["step.int8-trt8.onnx"].sha256
    assert load_engine(bundle, "step", "int8", Target("tensorrt", "8.6.2.3", 87))[0] == records[1]


def test_engines_of_a_graph_that_has_changed_are_built_again(bundle: Bundle, reshaped_bundle: Path, builder: Builder) -> None:
    """Engines that were copied from a bundle of another P and N: also the start, of which the bundle has no file."""
    build_engines(bundle, "fp32", "rtx")
    other = load_bundle(Path(shutil.copytree(reshaped_bundle, bundle.path.with_name("other"))))
    shutil.copytree(bundle.path / "engines", other.path / "engines")
    roles_built(builder)
    build_engines(other, "fp32", "rtx")
    assert roles_built(builder) == list(ENGINE_ROLES)


@pytest.mark.usefixtures("gpu")
def test_compatibility_that_is_asked_for_anew_is_built_and_what_offers_more_is_kept(bundle: Bundle, builder: Builder) -> None:
    plain, both = BuildOptions(), BuildOptions(version_compatible=True, hardware_compatible=True)
    build_engines(bundle, "fp32", "tensorrt", plain)
    roles_built(builder)
    records = build_engines(bundle, "fp32", "tensorrt", both)
    assert roles_built(builder) == list(ENGINE_ROLES)
    assert all(r.version_compatible and r.hardware_compatible for r in records)
    for kept in (plain, both, BuildOptions(version_compatible=True)):
        build_engines(bundle, "fp32", "tensorrt", kept)
        assert roles_built(builder) == []


# --- for which GPU, and with what ---


def test_tensorrts_engines_are_of_the_gpu_here_which_is_given_back(bundle: Bundle, gpu: list[RecordingCuda], builder: Builder) -> None:
    current: list[bool] = []
    builder.then = lambda name: current.append(gpu[0].is_current)
    records = build_engines(bundle, "fp32", "tensorrt", device=1)
    # TensorRT would build for the first GPU otherwise, whatever the record says.
    assert current == [True] * 3
    assert gpu[0].device.index == 1
    assert [record.sm for record in records] == [87] * 3
    assert {Path(record.name).parent.name for record in records} == {"tensorrt-10.3.0.30-sm87"}
    assert records[0].made["gpu"] == "no GPU"
    assert [cuda.closed for cuda in gpu] == [1]
    assert load_engine(bundle, "step", "fp32", Target("tensorrt", "10.3.0.30", 87))[0] == records[1]
    with pytest.raises(EngineMismatch, match=r"it was built for SM 8\.7"):
        load_engine(bundle, "step", "fp32", Target("tensorrt", "10.3.0.30", 89))


@pytest.mark.usefixtures("gpu")
def test_measured_tactics_are_kept_beside_the_engines_unless_that_is_not_wanted(bundle: Bundle, builder: Builder) -> None:
    build_engines(bundle, "fp32", "tensorrt")
    assert {o.timing_cache for o in builder.options} == {bundle.path / "engines/tensorrt-10.3.0.30-sm87/timing.cache"}
    assert (bundle.path / "engines/tensorrt-10.3.0.30-sm87").is_dir()
    builder.options.clear()
    build_engines(bundle, "fp32", "tensorrt", rebuild=True, keep_timing_cache=False)
    assert {o.timing_cache for o in builder.options} == {None}


def test_tensorrt_rtx_keeps_no_tactics(bundle: Bundle, builder: Builder) -> None:
    build_engines(bundle, "fp32", "rtx")
    assert {o.timing_cache for o in builder.options} == {None}


def test_tensorrt_without_a_gpu_is_an_error_that_says_so(bundle: Bundle, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.runtime.cuda.driver_found", lambda: False)
    with pytest.raises(CudaError, match="no NVIDIA driver found"):
        build_engines(bundle, "fp32", "tensorrt")
    assert builder.built == []
    assert not (bundle.path / "engines").exists()


def test_whether_there_is_a_gpu_is_asked_without_keeping_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = RecordingCuda()
    monkeypatch.setattr(bundle_engines, "open_cuda", lambda device: cuda)
    assert device_here() == cuda.device
    assert cuda.closed == 1

    def refused(device: int) -> RecordingCuda:
        raise CudaError("no GPU")

    monkeypatch.setattr(bundle_engines, "open_cuda", refused)
    assert device_here() is None


def test_the_flavour_that_is_installed_is_taken_tensorrt_first(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()
    monkeypatch.setattr(bundle_engines, "is_installed", lambda module: module in installed)
    with pytest.raises(MissingPackage, match=r"pip install tensorrt "):
        default_flavour()
    installed.add("tensorrt_rtx")
    assert default_flavour() == "rtx"
    installed.add("tensorrt")
    assert default_flavour() == "tensorrt"


# --- what fails, or is interrupted ---


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ExportError("refused"), MemoryError()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("at", ENGINE_ROLES)
def test_a_build_that_breaks_off_leaves_the_older_engines_and_nothing_half_done(
    bundle: Bundle, builder: Builder, failure: BaseException, at: str
) -> None:
    build_engines(bundle, "fp32", "rtx")
    before = contents(bundle)
    builder.built.append("an earlier one, so that the plans differ")

    def breaking(name: str) -> None:
        if f"the {at} graph" in name:
            raise failure

    builder.then = breaking
    with pytest.raises(type(failure)):
        build_engines(bundle, "fp32", "rtx", rebuild=True)
    after = contents(bundle)
    assert after.keys() == before.keys()
    done = ENGINE_ROLES[: ENGINE_ROLES.index(at)]
    assert {name.split(".")[0] for name in after if after[name] != before[name] and name.endswith(".engine")} == {
        name.split(".")[0] for name in after if name.endswith(".engine") and Path(name).name.startswith(tuple(done or ("none",)))
    }
    # What was finished is whole, and so is what was not begun.
    assert all(load_engine(bundle, role, "fp32", RTX) for role in ENGINE_ROLES)
    # The next build has nothing to mend.
    builder.then = lambda name: None
    roles_built(builder)
    build_engines(bundle, "fp32", "rtx")
    assert roles_built(builder) == []


def test_a_first_build_that_breaks_off_goes_on_where_it_stopped(bundle: Bundle, builder: Builder) -> None:
    def breaking(name: str) -> None:
        if "the start graph" in name:
            raise KeyboardInterrupt

    builder.then = breaking
    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, "fp32", "rtx")
    assert len(list(engine_records(bundle))) == 2
    builder.then = lambda name: None
    roles_built(builder)
    build_engines(bundle, "fp32", "rtx")
    assert roles_built(builder) == ["start"]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("flavour", ["rtx", "tensorrt"])
def test_where_engines_cannot_be_put_is_said_before_anything_is_built(bundle: Bundle, builder: Builder, flavour: str) -> None:
    (bundle.path / "engines").write_text("a file of somebody")
    with pytest.raises(OutputError, match=r"cannot write .*engines"):
        build_engines(bundle, "fp32", flavour)
    assert (bundle.path / "engines").read_text() == "a file of somebody"
    assert builder.built == []


def test_the_record_has_the_builders_warnings_and_the_options(bundle: Bundle, builder: Builder) -> None:
    [record, *_] = build_engines(bundle, "fp32", "rtx", BuildOptions(workspace_mib=64, optimisation_level=1))
    written: dict[str, Any] = json.loads((bundle.path / record.name).with_suffix(".json").read_text())["made"]
    assert written["warnings"] == ["a warning"]
    assert (written["options"]["workspace_mib"], written["options"]["optimisation_level"]) == (64, 1)
    assert written["seconds"] == 0.5


def test_a_list_of_launches_never_belongs_to_another_engine(bundle: Bundle, builder: Builder) -> None:
    build_engines(bundle, "fp32", "rtx")
    assert sum(name.endswith(".layers.txt") for name in contents(bundle)) == 3
    builder.listing = ""
    build_engines(bundle, "fp32", "rtx", rebuild=True)
    assert not [name for name in contents(bundle) if name.endswith(".layers.txt")]


def test_a_causal_encoder_gets_no_engines(causal_bundle: Path) -> None:
    with pytest.raises(EngineError, match="no GPU backend keeps"):
        build_engines(load_bundle(causal_bundle), "fp32", "rtx")
    assert not list(engine_records(load_bundle(causal_bundle)))
