"""The wheel: what is in it, and that it runs where only numpy and ONNX Runtime are."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import diffpose_edge

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy: setuptools would take over what an earlier build left in the checkout's build folder.
    source, out = tmp_path_factory.mktemp("source") / "checkout", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "demo", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (made,) = out.glob("*.whl")
    return made


def names(wheel):
    with zipfile.ZipFile(wheel) as content:
        return content.namelist()


def test_every_module_of_the_checkout_is_in_the_wheel(wheel):
    folders = {
        "diffpose_edge": "diffpose_edge",
        **{f: f"diffpose_edge/{f}" for f in ("reference", "export", "calibration", "runtime", "benchmarks")},
    }
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder)}" for folder, inside in folders.items() for path in (ROOT / folder).rglob("*.py")
    }
    assert len(expected) > 40
    assert {n for n in names(wheel) if n.endswith(".py")} == expected


def test_the_wheel_has_data_types_marker_licences_and_entry_point(wheel):
    inside = names(wheel)
    for wanted in (
        "py.typed",
        "data/street_walk_mediapipe33.npz",
        "data/mocap_h36m17.npz",
        "data/held_out.npz",
        "data/README.md",
        "weights/frame/denoiser.safetensors",
        "benchmarks/bench_report.html.j2",
        "detector/requirements.txt",
        "viewer/page/viewer.html.j2",
        "viewer/page/stage.js",
        "viewer/libraries/libraries.min.js",
        "viewer/libraries/README.md",
        "weights/causal/context.safetensors",
    ):
        assert f"diffpose_edge/{wanted}" in inside
    info = f"diffpose_edge-{diffpose_edge.__version__}.dist-info"
    data = [f"diffpose_edge/data/LICENSE.{name}" for name in ("sports2d", "apache-2.0", "assimp")]
    libraries = [f"diffpose_edge/viewer/libraries/LICENSE.{name}" for name in ("three", "uplot")]
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", *data, *libraries)} <= set(inside)
    with zipfile.ZipFile(wheel) as content:
        assert "diffpose-edge = diffpose_edge.cli:main" in content.read(f"{info}/entry_points.txt").decode()
        metadata = content.read(f"{info}/METADATA").decode()
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert base == ["Requires-Dist: numpy>=1.23"]
    extras = "export cpu tensorrt cuda pycuda train report detector telemetry dds ros foxglove tracking metrics logs cli test"
    for extra in extras.split():
        assert f"Provides-Extra: {extra}" in metadata


def test_the_wheel_holds_nothing_that_does_not_belong(wheel):
    for name in names(wheel):
        assert name.startswith(("diffpose_edge/", "diffpose_edge-")), name
        assert not name.startswith("diffpose_edge/tests"), name
        assert "__pycache__" not in name


def test_the_installed_runtime_gives_the_checkouts_poses_without_anything_else(wheel, golden, golden_bundle, tmp_path):
    """Unpacked on its own, away from the checkout, with PyTorch and onnx made impossible to import."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "site")
    np.save(tmp_path / "uv.npy", golden.expected["input_2d"])
    program = f"""
import sys
for name in ("torch", "onnx", "onnxscript", "onnx_ir", "typer", "rich", "matplotlib"):
    sys.modules[name] = None
sys.path = [{str(tmp_path / "site")!r}] + [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "") + repr(f)]
import numpy as np
from diffpose_edge.runtime import PoseRuntime
import diffpose_edge
assert diffpose_edge.__file__.startswith({str(tmp_path / "site")!r}), diffpose_edge.__file__
assert len(diffpose_edge.__path__) == 1, list(diffpose_edge.__path__)
with PoseRuntime.load({str(golden_bundle)!r}) as runtime:
    np.save({str(tmp_path / "joints.npy")!r}, runtime.estimate(np.load({str(tmp_path / "uv.npy")!r})).joints)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    from diffpose_edge.runtime import PoseRuntime

    with PoseRuntime.load(golden_bundle) as runtime:
        np.testing.assert_array_equal(np.load(tmp_path / "joints.npy"), runtime.estimate(golden.expected["input_2d"]).joints)


def test_a_checkout_works_without_being_installed(tmp_path):
    program = "import diffpose_edge.runtime, diffpose_edge.calibration as c; print(diffpose_edge.runtime.__file__, c.__file__)"
    # -S: no site-packages, so no editable install; numpy's folder is given back by hand.
    site = str(Path(np.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.append({site!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.split() == [str(ROOT / "runtime" / "__init__.py"), str(ROOT / "calibration" / "__init__.py")]
