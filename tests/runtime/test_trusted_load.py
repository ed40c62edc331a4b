"""Loading a signed bundle into a runtime: checked before ONNX Runtime sees anything of it, with and without the package that checks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import diffpose_edge
from diffpose_edge.bundle import MANIFEST, load_bundle, sha256_of
from diffpose_edge.errors import BundleError, DiffPoseEdgeError, SignatureError
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.signing import sign_bundle

from ..core.signing_keys import write_keys  # noqa: TID252 - tests are no package that could be named
from ..core.tiny_graphs import graph_about  # noqa: TID252

EVIL = graph_about(b"evil")
CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(golden_bundle: Path, keys: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    sign_bundle(path, keys / "ours.pem")
    return path


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when ONNX Runtime is given a graph."""

    def session(*arguments: object, **options: object) -> None:
        raise AssertionError("ONNX Runtime was given a graph")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def forge(path: Path) -> None:
    """Exchange the step graph, and the manifest with it, so that all hashes agree."""
    content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, entry in content["files"].items():
        if entry["role"] == "step":
            (path / name).write_bytes(EVIL)
            entry |= {"sha256": sha256_of(EVIL), "bytes": len(EVIL)}
    (path / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def test_a_signed_bundle_gives_the_poses_that_it_gave_unsigned(signed: Path, golden_bundle: Path, keys: Path) -> None:
    keypoints = np.random.default_rng(0).uniform(-1, 1, (2, 17, 2))
    digest = load_bundle(signed).digest
    with PoseRuntime.load(golden_bundle, threads=1) as plain:
        expected = plain.estimate(keypoints, seed=1).joints
    for trust in ({"trusted_key": keys / "ours.pub"}, {"trusted_hash": digest}, {"trusted_key": [keys / "theirs.pub", keys / "ours.pub"]}):
        with PoseRuntime.load(signed, "auto", threads=1, **trust) as runtime:
            assert (runtime.bundle.signer is None) == ("trusted_key" not in trust)
            np.testing.assert_array_equal(runtime.estimate(keypoints, seed=1).joints, expected)


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("loaded_before", [False, True])
def test_nothing_of_a_forged_bundle_reaches_onnx_runtime(signed: Path, keys: Path, loaded_before: bool) -> None:
    digest = load_bundle(signed).digest
    before = load_bundle(signed)
    forge(signed)
    with pytest.raises(BundleError, match="was given a graph"):  # so it is where nobody asks
        PoseRuntime.load(signed)
    bundle = before if loaded_before else signed
    for trust in ({"trusted_key": keys / "ours.pub"}, {"trusted_hash": digest}, {"trusted_key": keys / "theirs.pub"}):
        with pytest.raises(SignatureError):
            PoseRuntime.load(bundle, **trust)


@pytest.mark.usefixtures("no_session")
def test_a_graph_that_is_exchanged_between_the_check_and_its_use_is_refused(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffpose_edge.runtime import pose_runtime

    real = pose_runtime.trusted_bundle

    def checked_then_forged(*arguments: object) -> object:
        loaded = real(*arguments)  # type: ignore[arg-type]
        forge(signed)
        return loaded

    monkeypatch.setattr(pose_runtime, "trusted_bundle", checked_then_forged)
    with pytest.raises(BundleError, match="was replaced by another process"):
        PoseRuntime.load(signed, trusted_key=keys / "ours.pub")


def test_engines_are_refused_beside_a_key_unless_they_are_allowed(signed: Path, keys: Path) -> None:
    with pytest.raises(SignatureError, match="no signature covers them"):
        PoseRuntime.load(signed, "tensorrt", trusted_key=keys / "ours.pub")
    with pytest.raises(DiffPoseEdgeError) as further:  # no TensorRT, no GPU, or no engine: what is missing here
        PoseRuntime.load(signed, "tensorrt", trusted_key=keys / "ours.pub", unsigned_engines=True)
    assert not isinstance(further.value, SignatureError)


def test_the_environment_holds_for_programs_that_do_not_ask(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFPOSE_TRUSTED_KEY", str(keys / "ours.pub"))
    with PoseRuntime.load(signed, threads=1) as runtime:
        assert runtime.bundle.signer is not None
    monkeypatch.setenv("DIFFPOSE_TRUSTED_KEY", str(keys / "theirs.pub"))
    for bundle in (signed, load_bundle(signed)):
        with pytest.raises(SignatureError):
            PoseRuntime.load(bundle)


WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cryptography":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from diffpose_edge.errors import MissingPackage
from diffpose_edge.runtime import PoseRuntime
bundle, digest, key = sys.argv[1:]
with PoseRuntime.load(bundle, threads=1, trusted_hash=digest) as runtime:
    print(runtime.bundle.digest)
try:
    PoseRuntime.load(bundle, trusted_key=key)
except MissingPackage as err:
    print(err)
"""


def test_a_device_without_the_package_checks_digests_and_names_the_command_for_keys(signed: Path, keys: Path) -> None:
    digest = load_bundle(signed).digest
    command = [sys.executable, "-c", WITHOUT, str(signed), digest, str(keys / "ours.pub")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=120)
    first, second = done.stdout.splitlines()
    assert first == digest
    assert "pip install cryptography" in second
