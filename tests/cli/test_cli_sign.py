"""``sign`` and ``verify-signature``, the commands that change a signed bundle, and the same done with OpenSSL's own tool."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_edge.bundle import MANIFEST, load_bundle, sha256_of
from diffpose_edge.cli import sign as sign_command
from diffpose_edge.signature_file import SIGNATURE, is_signed
from diffpose_edge.trust import public_keys

from ..core.signing_keys import PASSWORD, small_bundle, write_keys  # noqa: TID252 - tests are no package that could be named

Run = Callable[..., SimpleNamespace]
Mistake = Callable[..., str]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "signing.md"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "a bundle")


@pytest.fixture
def signed(golden_bundle: Path, keys: Path, tmp_path: Path, cli: Run) -> Path:
    """A real bundle, signed."""
    path = Path(shutil.copytree(golden_bundle, tmp_path / "signed"))
    cli("sign", path, "--key", keys / "ours.pem")
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    np.savez(tmp_path / "clip.npz", keypoints=np.random.default_rng(0).uniform(-1, 1, (2, 17, 2)))
    return tmp_path / "clip.npz"


def test_without_a_key_the_digest_is_printed_alone_and_nothing_written(bundle: Path, cli: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    told = cli("sign", bundle)
    digest = told.out.strip()
    assert digest == "sha256:" + sha256_of((bundle / MANIFEST).read_bytes())
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before
    # The command that it names works as it stands.
    (command,) = re.findall(r"diffpose-edge (verify-signature .*)", told.err)
    assert "whole: the manifest and 2 files" in cli(*shlex.split(command)).out


def test_with_a_key_it_is_signed_and_who_signed_is_said(bundle: Path, keys: Path, cli: Run) -> None:
    told = cli("sign", bundle, "--key", keys / "ours.pem")
    fingerprint = public_keys(keys / "ours.pub")[0].fingerprint
    assert fingerprint in told.out
    assert not told.err
    assert (bundle / SIGNATURE).stat().st_size == 64
    (bundle / "engines").mkdir()
    said = cli(
        "verify-signature", bundle, "--key", keys / "theirs.pub", "--key", keys / "ours.pub", "--hash", load_bundle(bundle).digest
    ).out
    assert f"signed by {keys / 'ours.pub'} ({fingerprint}), and whole" in said
    assert "not covered: engines/" in said
    assert "timings/" not in said
    assert "there is one (check it with verify-signature)" in cli("inspect", bundle).out
    assert load_bundle(bundle).digest in cli("inspect", bundle).out


def test_what_does_not_fit_is_a_mistake(bundle: Path, keys: Path, cli: Run, mistake: Mistake) -> None:
    assert "expected --key or --hash" in mistake("verify-signature", bundle)
    assert "is not signed" in mistake("verify-signature", bundle, "--key", keys / "ours.pub")
    assert "is another bundle" in mistake("verify-signature", bundle, "--hash", "0" * 64)
    assert "64 hexadecimal digits" in mistake("verify-signature", bundle, "--hash", "md5:0")
    assert "is protected by a password" in mistake("sign", bundle, "--key", keys / "ours_protected.pem")
    assert "expected a private key" in mistake("sign", bundle, "--key", keys / "ours.pub")
    (bundle / "more").touch()
    assert "holds 'more'" in mistake("sign", bundle)
    assert "holds 'more'" in mistake("sign", bundle, "--key", keys / "ours.pem")
    (bundle / "more").unlink()
    cli("sign", bundle, "--key", keys / "theirs.pem")
    assert "is not one of" in mistake("verify-signature", bundle, "--key", keys / "ours.pub")


def test_the_environment_names_the_key(bundle: Path, keys: Path, cli: Run, monkeypatch: pytest.MonkeyPatch, mistake: Mistake) -> None:
    cli("sign", bundle, "--key", keys / "ours.pem")
    monkeypatch.setenv("DIFFPOSE_TRUSTED_KEY", str(keys / "ours.pub"))
    assert "signed by" in cli("verify-signature", bundle).out
    monkeypatch.setenv("DIFFPOSE_TRUSTED_KEY", str(keys / "theirs.pub"))
    assert "is not one of" in mistake("verify-signature", bundle)
    # TensorRT reads the graphs when it builds.
    assert "is not one of" in mistake("build", bundle)


def test_a_password_comes_from_the_environment_or_is_typed(
    bundle: Path, keys: Path, cli: Run, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFPOSE_KEY_PASSWORD", PASSWORD.decode())
    cli("sign", bundle, "--key", keys / "ours_protected.pem")
    assert "signed by" in cli("verify-signature", bundle, "--key", keys / "ours.pub").out
    monkeypatch.setenv("DIFFPOSE_KEY_PASSWORD", "wrong")
    assert "the password is not the right one" in mistake("sign", bundle, "--key", keys / "ours_protected.pem")
    monkeypatch.delenv("DIFFPOSE_KEY_PASSWORD")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    asked = {}

    def prompt(text: str, **options: object) -> str:
        asked.update(options, text=text)
        return PASSWORD.decode()

    monkeypatch.setattr(sign_command.typer, "prompt", prompt)
    cli("sign", bundle, "--key", keys / "ours_protected.pem")
    assert asked == {"text": f"Password of {keys / 'ours_protected.pem'}", "hide_input": True, "err": True}


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_key_that_others_can_read_is_told_of(bundle: Path, keys: Path, tmp_path: Path, cli: Run) -> None:
    key = Path(shutil.copy(keys / "ours.pem", tmp_path / "open.pem"))
    key.chmod(0o644)
    assert "open to others (mode 644): chmod 600 it" in cli("sign", bundle, "--key", key).err


def test_run_takes_only_what_is_trusted(signed: Path, keys: Path, clip: Path, tmp_path: Path, cli: Run, mistake: Mistake) -> None:
    run = ("run", signed, "--keypoints", clip, "--threads", 1, "--out")
    digest = load_bundle(signed).digest
    cli(*run, tmp_path / "poses.npz", "--trusted-key", keys / "theirs.pub", "--trusted-key", keys / "ours.pub", "--trusted-hash", digest)
    assert (tmp_path / "poses.npz").exists()
    out = tmp_path / "other.npz"
    assert "is not one of" in mistake(*run, out, "--trusted-key", keys / "theirs.pub")
    assert "is another bundle" in mistake(*run, out, "--trusted-hash", "1" * 64)
    assert "no signature covers them" in mistake(*run, out, "--trusted-key", keys / "ours.pub", "--backend", "tensorrt")
    name = load_bundle(signed).manifest.file_of("step")
    (signed / name).write_bytes((signed / name).read_bytes()[:-1] + b"\0")
    assert "was altered" in mistake(*run, out, "--trusted-key", keys / "ours.pub")


def test_verify_leaves_a_signed_bundle_as_it_is_unless_it_is_told_to_record(
    signed: Path, golden: SimpleNamespace, clip: Path, cli: Run
) -> None:
    verify = ("verify", signed, "--denoiser", golden.denoiser, "--context", golden.context, "--keypoints", clip, "--timesteps", "6,0")
    assert "manifest was left as it is" in cli(*verify).err
    assert is_signed(signed)
    assert "verify" not in load_bundle(signed).manifest.verification
    assert "warning: " in (told := cli(*verify, "--record").err)
    assert "its signature is removed. Sign it again" in told
    assert not is_signed(signed)
    assert "verify" in load_bundle(signed).manifest.verification


# --- OpenSSL


def openssl_3() -> bool:
    if shutil.which("openssl") is None:
        return False
    said = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False).stdout
    return re.match(r"OpenSSL ([3-9]|\d\d)\.", said) is not None


needs_openssl = pytest.mark.skipif(not openssl_3(), reason="pkeyutl -rawin came with OpenSSL 3")


def openssl(*arguments: object, folder: Path, status: int = 0) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


@needs_openssl
def test_openssl_and_we_take_each_others_signatures(bundle: Path, keys: Path, tmp_path: Path, cli: Run, mistake: Mistake) -> None:
    ours = ("pkeyutl", "-verify", "-pubin", "-rawin", "-in", bundle / MANIFEST, "-sigfile", bundle / SIGNATURE, "-inkey")
    cli("sign", bundle, "--key", keys / "ours.pem")
    assert "Verified Successfully" in openssl(*ours, keys / "ours.pub", folder=tmp_path)
    openssl(*ours, keys / "theirs.pub", folder=tmp_path, status=1)
    before = (bundle / SIGNATURE).read_bytes()
    (bundle / SIGNATURE).unlink()
    openssl(
        "pkeyutl", "-sign", "-inkey", keys / "ours.pem", "-rawin", "-in", bundle / MANIFEST, "-out", bundle / SIGNATURE, folder=tmp_path
    )
    assert (bundle / SIGNATURE).read_bytes() == before
    assert "signed by" in cli("verify-signature", bundle, "--key", keys / "ours.pub").out
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes() + b" ")
    openssl(*ours, keys / "ours.pub", folder=tmp_path, status=1)
    mistake("verify-signature", bundle, "--key", keys / "ours.pub")


@needs_openssl
def test_keys_that_openssl_made_are_read_protected_ones_too(
    bundle: Path, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFPOSE_KEY_PASSWORD", "secret words")
    openssl("genpkey", "-algorithm", "ed25519", "-aes-256-cbc", "-pass", "env:DIFFPOSE_KEY_PASSWORD", "-out", "k.pem", folder=tmp_path)
    openssl("pkey", "-in", "k.pem", "-passin", "env:DIFFPOSE_KEY_PASSWORD", "-pubout", "-out", "k.pub", folder=tmp_path)
    told = cli("sign", bundle, "--key", tmp_path / "k.pem")
    assert not told.err  # openssl leaves it readable by its owner alone
    openssl("pkey", "-pubin", "-in", "k.pub", "-outform", "DER", "-out", "k.der", folder=tmp_path)
    assert sha256_of((tmp_path / "k.der").read_bytes()) in told.out
    assert "signed by" in cli("verify-signature", bundle, "--key", tmp_path / "k.pub").out


@needs_openssl
def test_the_commands_of_the_text_work_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_bundle(tmp_path / "bundle")
    blocks = re.findall(r"<!-- run by tests/cli/test_cli_sign.py -->\n```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    ours = f'diffpose-edge() {{ {shlex.quote(sys.executable)} -m diffpose_edge "$@"; }}\n'
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parents[1]))
    done = subprocess.run(
        ["bash", "-ec", ours + "".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Signature Verified Successfully")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_sha256sum_says_the_same(bundle: Path, cli: Run) -> None:
    said = subprocess.run(["sha256sum", MANIFEST], cwd=bundle, capture_output=True, text=True, check=True).stdout.split()[0]
    assert cli("sign", bundle).out.strip() == f"sha256:{said}"
    cli("verify-signature", bundle, "--hash", said)
