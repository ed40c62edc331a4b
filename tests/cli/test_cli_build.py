"""``diffpose-edge build``: real engines with TensorRT-RTX, what is shown of them, and the mistakes that can be made."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffpose_edge.export import bundle_engines
from diffpose_edge.export.engine_build import BuildOptions, BuiltPlan
from diffpose_edge.runtime.cuda import Device

from .conftest import Mistake, Run, contents

pytestmark = [
    pytest.mark.skipif(not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="TensorRT-RTX is for x86-64 alone"),
    # polygraphy sets a timing cache, which TensorRT-RTX has no use for.
    pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning"),
]


@pytest.fixture
def bundle(golden_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_engines, "device_here", lambda index=0: None)


def rows_of(shown: str) -> dict[str, list[str]]:
    """The cells of the table of engines, by the engine's name."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if ".engine" in line]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.usefixtures("no_gpu")
def test_build_keep_and_build_again(cli: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cli("build", bundle, "--flavour", "rtx")
    [folder] = (bundle / "engines").iterdir()
    assert f"engines in engines/{folder.name}" in first.out
    rows = rows_of(first.out)
    assert set(rows) == {"context.fp32.engine", "step.fp32.engine", "start.fp32.engine"}
    assert {(row[0], row[3], row[4]) for row in rows.values()} == {("fp32", "built", "every GPU that it supports")}
    assert all(abs(float(row[1]) - (folder / name).stat().st_size / 1e6) < 0.006 for name, row in rows.items())
    assert "Not run: there is no GPU here" in first.out
    made = contents(bundle)

    again = cli("build", bundle, "--flavour", "rtx", "--no-prove")
    assert {row[3] for row in rows_of(again.out).values()} == {"kept: it fits"}
    assert "Not run" not in again.out
    assert contents(bundle) == made

    # It was seen above that TensorRT-RTX is asked: now a stand-in answers.
    monkeypatch.setattr(bundle_engines, "built_plan", lambda *asked: BuiltPlan(b"another plan", 0.25, (), "Layers:\n"))
    rebuilt = cli("build", bundle, "--flavour", "rtx", "--rebuild")
    assert {(row[2], row[3]) for row in rows_of(rebuilt.out).values()} == {("0.25", "built")}
    assert {path.read_bytes() for path in folder.glob("*.engine")} == {b"another plan"}
    assert contents(bundle).keys() == made.keys()


class Asked(SimpleNamespace):
    """What the command asked for, in place of what does the work."""

    device: Device | None = None
    verification = {"mean_mm": 0.01234, "worst_mm": 1.5, "frames": 4, "replay_equals_eager": True}  # noqa: RUF012

    def build_engines(self, bundle: Any, precision: str, flavour: str, options: BuildOptions, **more: Any) -> tuple[Any, ...]:
        self.bundle, self.precision, self.flavour, self.options, self.more = bundle, precision, flavour, options, more
        record = bundle_engines.EngineRecord("step", precision, precision, "tensorrt", "10.3.0", 87, "", "", 1_500_000)
        more["heard"]("step", True)
        for done in range(3):
            more["progress"]("a phase", done, 2)
        more["heard"]("start", False)
        return (record, bundle_engines.EngineRecord("start", "fp32", "fp32", "tensorrt", "10.3.0", 87, "", "", 1000))

    def prove_engines(self, bundle: Any, *asked: object, **more: object) -> dict[str, Any]:
        self.proved = (*asked, more)
        return self.verification


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    stand_in = Asked()
    for name in ("build_engines", "prove_engines"):
        monkeypatch.setattr(bundle_engines, name, getattr(stand_in, name))
    monkeypatch.setattr(bundle_engines, "device_here", lambda index=0: stand_in.device)
    monkeypatch.setattr(bundle_engines, "default_flavour", lambda: "tensorrt")
    return stand_in


def test_without_options_it_is_fp32_for_what_is_installed(cli: Run, bundle: Path, asked: Asked) -> None:
    cli("build", bundle)
    assert (asked.bundle.path, asked.precision, asked.flavour, asked.options) == (bundle, "fp32", "tensorrt", BuildOptions())
    assert (asked.more["device"], asked.more["keep_timing_cache"], asked.more["rebuild"]) == (0, True, False)


def test_every_option_is_passed_on(cli: Run, bundle: Path, asked: Asked) -> None:
    told = "--precision fp16 --flavour rtx --device 1 --workspace 512 --optimisation-level 5 --version-compatible --hardware-compatible"
    cli("build", bundle, *told.split(), "--no-timing-cache", "--rebuild")
    assert (asked.precision, asked.flavour) == ("fp16", "rtx")
    assert asked.options == BuildOptions(512, 5, True, True)
    assert (asked.more["device"], asked.more["keep_timing_cache"], asked.more["rebuild"]) == (1, False, True)


def test_the_table_tells_the_built_from_the_kept(cli: Run, bundle: Path, asked: Asked) -> None:
    rows = rows_of(cli("build", bundle, "--precision", "fp16").out)
    assert rows["step.fp16.engine"] == ["fp16", "1.50", "", "built", "SM 8.7"]
    assert rows["start.fp32.engine"][3] == "kept: it fits"


@pytest.mark.parametrize(("equal", "said"), [(True, "equals"), (False, "DIFFERS FROM")])
def test_where_there_is_a_gpu_the_engines_are_proved(cli: Run, bundle: Path, asked: Asked, equal: bool, said: str) -> None:
    asked.device = Device(1, "NVIDIA Orin [nvgpu]", 87, 12060, True, True)
    asked.verification = {**Asked.verification, "replay_equals_eager": equal}
    shown = cli("build", bundle, "--precision", "int8", "--device", 1).out
    assert asked.proved == ("int8", "tensorrt", {"device": 1})
    assert "On NVIDIA Orin [nvgpu], 4 real poses: 0.0123 mm on average from ONNX Runtime's, worst joint 1.5000 mm" in shown
    assert f"a replayed graph {said} eager work bit for bit" in shown


def test_a_proof_that_is_not_wanted_is_left_out(cli: Run, bundle: Path, asked: Asked) -> None:
    asked.device = Device(0, "GPU", 87, 12060, False, True)
    cli("build", bundle, "--no-prove")
    assert not hasattr(asked, "proved")


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--precision fp8", "expected a precision out of fp32, fp16, int8, got 'fp8'"),
        ("--precision int8-trt8", "expected a precision out of fp32, fp16, int8, got 'int8-trt8'"),
        ("--flavour TensorRT", "expected a flavour out of tensorrt, rtx, got 'TensorRT'"),
        ("--flavour rtx --workspace 0", "expected a workspace of at least 1 MiB, got 0"),
        ("--flavour rtx --optimisation-level 9", "expected an optimisation level within 0..5, got 9"),
        ("--flavour rtx --version-compatible", "its engines run on every GPU that it supports"),
        ("--flavour rtx --hardware-compatible", "its engines run on every GPU that it supports"),
        ("--flavour rtx --precision int8", "the bundle has no context graph in int8"),
        ("--flavour rtx --precision fp16", "Graphs in fp16 and int8 are made by: diffpose-edge calibrate"),
    ],
)
def test_options_that_cannot_be_meant(mistake: Mistake, bundle: Path, options: str, said: str) -> None:
    assert said in mistake("build", bundle, *options.split())


def test_a_device_before_the_first_is_refused_by_the_parser(cli: Run, bundle: Path) -> None:
    assert "--device" in cli("build", bundle, "--device", "-1", status=2).err


@pytest.mark.parametrize("kind", ["gone", "no bundle", "damaged"])
def test_what_is_no_bundle(mistake: Mistake, bundle: Path, kind: str) -> None:
    if kind == "gone":
        shutil.rmtree(bundle)
    elif kind == "no bundle":
        (bundle / "manifest.json").unlink()
    else:
        (bundle / "step.fp32.onnx").write_bytes(b"")
    assert "bundle" in mistake("build", bundle, "--flavour", "rtx")


def test_engines_that_have_no_place(mistake: Mistake, bundle: Path) -> None:
    (bundle / "engines").write_text("a file of somebody")
    assert "cannot write" in mistake("build", bundle, "--flavour", "rtx")


def test_without_tensorrt_the_package_is_named(mistake: Mistake, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_engines, "is_installed", lambda module: False)
    assert "pip install tensorrt" in mistake("build", bundle)
    monkeypatch.setattr("diffpose_edge.extras.is_installed", lambda module: "tensorrt" not in module)
    for flavour, package in (("tensorrt", "tensorrt"), ("rtx", "tensorrt_rtx")):
        assert f"needs the package '{package}', which is not installed" in mistake("build", bundle, "--flavour", flavour)


def test_tensorrt_without_a_gpu(mistake: Mistake, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_engines, "tensorrt_module", lambda flavour: SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setattr("diffpose_edge.runtime.cuda.driver_found", lambda: False)
    assert "no NVIDIA driver found" in mistake("build", bundle, "--flavour", "tensorrt")
