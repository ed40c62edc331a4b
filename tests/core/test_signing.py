"""Signed bundles: what was signed loads, and nothing else does, whatever was done to files, manifest, signature and keys."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.bundle import MANIFEST, Bundle, load_bundle, sha256_of, trusted_bundle
from diffpose_edge.bundle_writing import record_fitted, record_verification, save_bundle
from diffpose_edge.errors import BundleError, DiffPoseEdgeError, MissingPackage, OutputError, SignatureError
from diffpose_edge.signature_file import SIGNATURE, SIGNATURE_BYTES, digest_of, is_signed
from diffpose_edge.signing import sign_bundle
from diffpose_edge.temporaries import Temporary
from diffpose_edge.trust import PublicKey, Trust, checked_digest, public_keys, trust_of, trust_of_environment

from .signing_keys import GRAPHS, PASSWORD, small_bundle, write_keys
from .tiny_graphs import graph_about

STEP = "graphs/step.fp32.onnx"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def ours(keys: Path) -> Trust:
    trust = trust_of(keys / "ours.pub")
    assert trust is not None
    return trust


@pytest.fixture
def signed(keys: Path, tmp_path: Path) -> Path:
    path = small_bundle(tmp_path / "signed")
    sign_bundle(path, keys / "ours.pem")
    return path


def refusal(path: Path, trust: Trust) -> str:
    """The message with which a bundle is refused."""
    with pytest.raises(DiffPoseEdgeError) as caught:
        load_bundle(path, trust)
    return str(caught.value)


def test_what_was_signed_loads_with_its_signer_and_its_digest(signed: Path, keys: Path, ours: Trust) -> None:
    loaded = load_bundle(signed, ours)
    assert loaded.digest == "sha256:" + sha256_of((signed / MANIFEST).read_bytes())
    assert loaded.signer == ours.keys[0]
    assert loaded.signer.fingerprint == sha256_of((keys / "ours.der").read_bytes())
    assert load_bundle(signed).manifest == loaded.manifest
    assert load_bundle(signed).signer is None
    assert (signed / SIGNATURE).stat().st_size == SIGNATURE_BYTES
    assert {p.name for p in signed.iterdir()} == {MANIFEST, SIGNATURE, "context.fp32.onnx", "graphs"}


EVIL = graph_about(b"an evil step")


def forge(path: Path) -> None:
    """Exchange a graph, and the manifest with it, so that all hashes agree: what an attacker would do."""
    (path / STEP).write_bytes(EVIL)
    content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    content["files"][STEP] |= {"sha256": sha256_of(EVIL), "bytes": len(EVIL)}
    (path / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def test_a_forged_bundle_loads_where_nobody_asks_and_is_refused_where_somebody_does(signed: Path, ours: Trust) -> None:
    digest = load_bundle(signed).digest
    forge(signed)
    assert load_bundle(signed).read("step") == EVIL
    assert "is not one of" in refusal(signed, ours)
    assert "is another bundle than was asked for" in refusal(signed, Trust(digests=(digest,)))


@dataclass(frozen=True)
class Fault:
    spoil: Callable[[Path, Path], object]
    said: str


def _another_signature(path: Path, keys: Path) -> None:
    other = small_bundle(path.with_name("other"), graph_about(b"another step"))
    sign_bundle(other, keys / "ours.pem")
    shutil.copy(other / SIGNATURE, path / SIGNATURE)


def _linked_signature(path: Path, keys: Path) -> None:
    shutil.move(path / SIGNATURE, path.with_name("elsewhere"))
    (path / SIGNATURE).symlink_to(path.with_name("elsewhere"))


def _linked_folder(path: Path, keys: Path) -> None:
    shutil.move(path / "graphs", path.with_name("elsewhere"))
    (path / "graphs").symlink_to(path.with_name("elsewhere"))


def _folder_moved(path: Path, keys: Path) -> None:
    shutil.move(path / "graphs", path / "engines")
    (path / "graphs").symlink_to("engines")


def _manifest_exchanged(path: Path, keys: Path) -> None:
    other = small_bundle(path.with_name("other"), graph_about(b"another step"))
    shutil.copy(other / MANIFEST, path / MANIFEST)
    shutil.copy(other / STEP, path / STEP)


FAULTS = {
    "a file altered": Fault(lambda path, keys: (path / STEP).write_bytes(graph_about(b"b step")), "was altered"),
    "a file cut": Fault(lambda path, keys: (path / STEP).write_bytes(b"a ste"), "has 5 bytes, the manifest says 10"),
    "a file removed": Fault(lambda path, keys: (path / STEP).unlink(), "lacks the file graphs/step"),
    "a file added": Fault(lambda path, keys: (path / "extra.onnx").touch(), "holds 'extra.onnx', which its manifest does not name"),
    "a hidden file added": Fault(lambda path, keys: (path / ".x").touch(), "holds '.x'"),
    "a file added further down": Fault(lambda path, keys: (path / "graphs" / "x").touch(), "holds 'graphs/x'"),
    "a folder added": Fault(lambda path, keys: (path / "more").mkdir(), "holds 'more'"),
    "engines further down": Fault(lambda path, keys: (path / "graphs" / "engines").mkdir(), "holds 'graphs/engines'"),
    "a link added": Fault(lambda path, keys: (path / "link").symlink_to("/"), "holds 'link'"),
    "a folder exchanged for a link": Fault(_linked_folder, "leads out of the bundle"),
    "a folder moved behind a link": Fault(_folder_moved, "holds 'graphs'"),
    "the manifest exchanged": Fault(_manifest_exchanged, "is not one of"),
    "a space behind the manifest": Fault(lambda path, keys: (path / MANIFEST).open("ab").write(b" "), "is not one of"),
    "the manifest no JSON": Fault(lambda path, keys: (path / MANIFEST).write_bytes(b"{" * 9999), "is not one of"),
    "the manifest removed": Fault(lambda path, keys: (path / MANIFEST).unlink(), "has no manifest.json"),
    "not signed": Fault(lambda path, keys: (path / SIGNATURE).unlink(), "is not signed: it has no manifest.json.sig"),
    "another key": Fault(lambda path, keys: sign_bundle(path, keys / "theirs.pem"), "is not one of"),
    "another bundle's signature": Fault(_another_signature, "or it belongs to another bundle"),
    "an empty signature": Fault(lambda path, keys: (path / SIGNATURE).write_bytes(b""), "has 0 bytes"),
    "a cut signature": Fault(lambda path, keys: os.truncate(path / SIGNATURE, 63), "has 63 bytes"),
    "a long signature": Fault(lambda path, keys: (path / SIGNATURE).open("ab").write(b"\n"), "has more than 64 bytes"),
    "an endless signature": Fault(lambda path, keys: os.truncate(path / SIGNATURE, 2**40), "has more than 64 bytes"),
    "a signature of zeros": Fault(lambda path, keys: (path / SIGNATURE).write_bytes(bytes(64)), "is not one of"),
    "a linked signature": Fault(_linked_signature, "is a link"),
    "a folder for a signature": Fault(lambda path, keys: ((path / SIGNATURE).unlink(), (path / SIGNATURE).mkdir()), "refused"),
    "a pipe for a signature": Fault(lambda path, keys: ((path / SIGNATURE).unlink(), os.mkfifo(path / SIGNATURE)), "is not a file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_refused(signed: Path, keys: Path, ours: Trust, fault: str) -> None:
    load_bundle(signed, ours)
    FAULTS[fault].spoil(signed, keys)
    assert FAULTS[fault].said in refusal(signed, ours)


@pytest.fixture(scope="module")
def kept(keys: Path, ours: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A signed bundle that each example leaves as it found it."""
    path = small_bundle(tmp_path_factory.mktemp("kept") / "bundle")
    sign_bundle(path, keys / "ours.pem")
    yield path
    assert load_bundle(path, ours).signer == ours.keys[0]


@pytest.fixture(scope="module")
def digest(kept: Path) -> Trust:
    return Trust(digests=(load_bundle(kept).digest,))


def refused_with(path: Path, name: str, content: bytes, *trusts: Trust) -> None:
    before = (path / name).read_bytes()
    (path / name).write_bytes(content)
    try:
        for trust in trusts:
            refusal(path, trust)
    finally:
        (path / name).write_bytes(before)


NAMES = st.sampled_from([MANIFEST, SIGNATURE, *GRAPHS])


@given(name=NAMES, where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_any_single_byte_flipped_in_any_file_is_refused(kept: Path, ours: Trust, digest: Trust, name: str, where: float, flip: int) -> None:
    content = bytearray((kept / name).read_bytes())
    content[int(where * len(content))] ^= flip
    # A digest says nothing of the signature's bytes.
    refused_with(kept, name, bytes(content), ours, *([] if name == SIGNATURE else [digest]))


@given(name=NAMES, content=st.binary(max_size=200), cut=st.floats(0, 1), keep=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_other_content_of_any_file_is_refused(kept: Path, ours: Trust, name: str, content: bytes, cut: float, keep: bool) -> None:
    before = (kept / name).read_bytes()
    altered = before[: int(cut * len(before))] + content if keep else content
    if altered != before:
        refused_with(kept, name, altered, ours)


def test_every_single_bit_of_the_signature_counts(kept: Path, ours: Trust) -> None:
    """Also those high bits of its second half that a careless check would let pass (RFC 8032, 8.4)."""
    manifest, signature = (kept / MANIFEST).read_bytes(), (kept / SIGNATURE).read_bytes()
    (key,) = ours.keys
    assert key.has_signed(manifest, signature)
    order = 2**252 + 27742317777372353535851937790883648493
    shifted = int.from_bytes(signature[32:], "little") + order
    assert not key.has_signed(manifest, signature[:32] + shifted.to_bytes(32, "little"))
    for bit in range(8 * SIGNATURE_BYTES):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not key.has_signed(manifest, bytes(flipped))


class Exchanging(Trust):
    """A trust that, once it has checked a bundle, exchanges its manifest and a graph: the quickest attacker there can be."""

    def check(self, folder: Path, manifest: bytes) -> PublicKey | None:
        signer = super().check(folder, manifest)
        forge(folder)
        return signer


def test_the_manifest_that_is_used_is_the_one_that_was_checked(signed: Path, ours: Trust) -> None:
    before = (signed / MANIFEST).read_bytes()
    # First the graph is not the signed manifest's; then, as another manifest has come meanwhile, that one is read, and is not signed.
    with pytest.raises(SignatureError, match="is not one of"):
        load_bundle(signed, Exchanging(ours.keys))
    assert (signed / MANIFEST).read_bytes() != before


def test_a_graph_exchanged_after_the_check_is_not_used(signed: Path, ours: Trust) -> None:
    loaded = load_bundle(signed, ours)
    forge(signed)
    assert loaded.read("context") == graph_about(b"a context")
    with pytest.raises(BundleError, match="was replaced by another process"):
        loaded.read("step")


def test_a_bundle_that_was_loaded_without_a_check_is_read_again_for_one(signed: Path, ours: Trust) -> None:
    loaded = load_bundle(signed)
    assert trusted_bundle(loaded, None) is loaded
    assert trusted_bundle(loaded, ours).signer == ours.keys[0]
    forge(signed)
    with pytest.raises(SignatureError):
        trusted_bundle(loaded, ours)


def test_engines_and_timings_may_be_added_and_are_not_covered(signed: Path, ours: Trust) -> None:
    for name in ("engines", "timings"):
        (signed / name / "below").mkdir(parents=True)
        (signed / name / "below" / "any").write_bytes(b"anything")
    assert load_bundle(signed, ours).signer == ours.keys[0]


def test_what_a_killed_command_has_left_is_no_addition(signed: Path, ours: Trust) -> None:
    left = Temporary(signed / "manifest.json")
    name = left.path
    left.close()
    name.write_bytes(b"half a manifest")
    assert load_bundle(signed, ours).signer == ours.keys[0]
    (signed / ".manifest.json.partial").touch()
    with pytest.raises(SignatureError, match="holds"):
        load_bundle(signed, ours)


def test_one_of_several_keys_is_enough_and_a_digest_counts_as_well(signed: Path, keys: Path, ours: Trust, tmp_path: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_bytes(b"the old one\n" + (keys / "theirs.pub").read_bytes() + b"\nthe new one\n" + (keys / "ours.pub").read_bytes())
    digest = load_bundle(signed).digest
    for trust in (trust_of(both), trust_of([keys / "theirs.pub", str(keys / "ours.pub")]), trust_of(both, digest.upper())):
        assert trust is not None
        signer = load_bundle(signed, trust).signer
        assert signer is not None
        assert signer.raw == ours.keys[0].raw
    for trust in (trust_of(keys / "ours.pub", "sha256:" + "0" * 64), trust_of(keys / "theirs.pub", digest)):
        assert trust is not None
        refusal(signed, trust)


def test_a_digest_needs_no_signature_and_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.extras.is_installed", lambda module: module != "cryptography")
    path = small_bundle(tmp_path / "bundle")
    digest = load_bundle(path).digest
    for text in (digest, digest.removeprefix("sha256:"), f" {digest}\n"):
        trust = trust_of(digest=text)
        assert trust is not None
        assert load_bundle(path, trust).signer is None
    with pytest.raises(MissingPackage, match="pip install cryptography"):
        trust_of(tmp_path / "any.pub")
    with pytest.raises(MissingPackage, match=r"'\.\[sign\]'"):
        sign_bundle(path, tmp_path / "any.pem")


@pytest.mark.parametrize("text", ["", "sha256:", "abc", "sha512:" + "0" * 64, "0" * 63, "0" * 65, "sha256:" + "g" * 64])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="64 hexadecimal digits"):
        checked_digest(text)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ours.pem", "holds a private key, which has no place"),
        ("ours_protected.pem", "holds a private key, which has no place"),
        ("rsa.pub", "of another kind; expected Ed25519"),
        ("ec.pub", "of another kind; expected Ed25519"),
        ("ours.der", "is no file of public keys"),
        ("missing", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("a\0b", "cannot be read: .*null"),
        ("damaged", "that cannot be read; expected Ed25519"),
        ("mixed", "is no file of public keys"),
        ("empty", "is no file of public keys"),
        ("large", "is larger than 65536 bytes"),
    ],
)
def test_what_is_no_public_key_is_refused(keys: Path, tmp_path: Path, name: str, said: str) -> None:
    folder = Path(shutil.copytree(keys, tmp_path / "keys"))
    pem = (keys / "ours.pub").read_bytes()
    (folder / "damaged").write_bytes(pem[:-50] + b"\n" + pem[-26:])
    (folder / "mixed").write_bytes(pem + pem.replace(b"PUBLIC KEY", b"CERTIFICATE"))
    (folder / "empty").touch()
    (folder / "large").write_bytes(pem * 1000)
    with pytest.raises(SignatureError, match=said):
        public_keys(f"{folder}/{name}")


def test_an_empty_list_of_keys_is_no_trust_in_everybody(signed: Path) -> None:
    with pytest.raises(SignatureError, match="empty list"):
        trust_of([])
    with pytest.raises(SignatureError, match="got neither"):
        Trust()


def test_the_environment_is_asked_where_no_program_says_otherwise(keys: Path, ours: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust_of() is None
    monkeypatch.setenv("DIFFPOSE_TRUSTED_KEY", str(keys / "ours.pub"))
    assert trust_of() == ours
    assert trust_of(unsigned_engines=True) == Trust(ours.keys, unsigned_engines=True)
    theirs = trust_of(keys / "theirs.pub")
    assert theirs is not None
    assert theirs.keys[0].source == str(keys / "theirs.pub")
    monkeypatch.setenv("DIFFPOSE_UNSIGNED_ENGINES", "1")
    assert trust_of() == Trust(ours.keys, unsigned_engines=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"DIFFPOSE_TRUSTED_KEY": ""}, "is set and empty"),
        ({"DIFFPOSE_TRUSTED_KEY": "/nowhere.pub"}, "cannot be read"),
        ({"DIFFPOSE_TRUSTED_KEY": "{ours}", "DIFFPOSE_UNSIGNED_ENGINES": "yes"}, "as 0 or 1, got 'yes'"),
    ],
)
def test_a_mistake_in_the_environment_lets_nobody_in(keys: Path, values: dict[str, str], said: str) -> None:
    with pytest.raises(SignatureError, match=said):
        trust_of_environment({name: value.format(ours=keys / "ours.pub") for name, value in values.items()})


def test_engines_are_run_only_where_that_was_allowed(ours: Trust, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SignatureError, match="no signature covers them"):
        ours.backend("tensorrt")
    assert ours.backend("auto") == ours.backend("onnxruntime") == "onnxruntime"
    assert ours.backend("onnxruntime-cuda") == "onnxruntime-cuda"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    allowing = Trust(ours.keys, unsigned_engines=True)
    assert [allowing.backend(asked) for asked in ("tensorrt", "auto")] == ["tensorrt", "auto"]


# --- signing


def test_signing_again_gives_the_same_signature_and_another_key_replaces_it(signed: Path, keys: Path, ours: Trust) -> None:
    first = (signed / SIGNATURE).read_bytes()
    sign_bundle(signed, keys / "ours.pem")
    assert (signed / SIGNATURE).read_bytes() == first
    sign_bundle(signed, keys / "theirs.pem")
    assert (signed / SIGNATURE).read_bytes() != first
    refusal(signed, ours)


def test_a_link_where_the_signature_belongs_is_replaced_not_followed(signed: Path, keys: Path, ours: Trust, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (signed / SIGNATURE).unlink()
    (signed / SIGNATURE).symlink_to(tmp_path / "precious")
    sign_bundle(signed, keys / "ours.pem")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert load_bundle(signed, ours).signer is not None


@pytest.mark.parametrize("spoil", ["a file altered", "a file added", "a hidden file added", "the manifest removed"])
def test_what_could_not_be_verified_is_not_signed(keys: Path, tmp_path: Path, spoil: str) -> None:
    path = small_bundle(tmp_path / "bundle")
    FAULTS[spoil].spoil(path, keys)
    with pytest.raises(DiffPoseEdgeError, match=FAULTS[spoil].said):
        sign_bundle(path, keys / "ours.pem")
    assert not is_signed(path)


def test_a_bundle_that_holds_the_private_key_is_not_signed(keys: Path, tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "bundle")
    key = Path(shutil.copy(keys / "ours.pem", path / "ours.pem"))
    with pytest.raises(SignatureError, match=r"holds 'ours.pem'"):
        sign_bundle(path, key)


def test_a_protected_key_asks_for_its_password_once(signed: Path, keys: Path, ours: Trust) -> None:
    asked: list[int] = []

    def password() -> bytes:
        asked.append(1)
        return PASSWORD

    (signed / SIGNATURE).unlink()
    assert sign_bundle(signed, keys / "ours_protected.pem", password).signer is not None
    assert load_bundle(signed, ours).signer is not None
    assert asked == [1]
    sign_bundle(signed, keys / "ours.pem", password)
    assert asked == [1]


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("ours.pub", None, "holds a public key; expected a private key"),
        ("ours.der", None, "holds no key in PEM"),
        ("rsa.pem", None, "of another kind; expected Ed25519"),
        ("ec.pem", None, "of another kind; expected Ed25519"),
        ("ours_protected.pem", None, "is protected by a password; set DIFFPOSE_KEY_PASSWORD"),
        ("ours_protected.pem", b"another password", "the password is not the right one"),
        ("ours_protected.pem", b"", "the password is not the right one"),
        ("damaged", None, "cannot be read: it is damaged"),
        ("missing", None, "cannot be read: No such file"),
        ("large", None, "is larger than 65536 bytes"),
    ],
)
def test_what_is_no_private_key_is_refused_and_never_shown(
    keys: Path, tmp_path: Path, name: str, password: bytes | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(keys, tmp_path / "keys"))
    pem = (keys / "ours.pem").read_text(encoding="ascii")
    (folder / "damaged").write_text(pem.replace("MC4", "MC5"), encoding="ascii")
    (folder / "large").write_text(pem * 1000, encoding="ascii")
    path = small_bundle(tmp_path / "bundle")
    with pytest.raises(SignatureError, match=said) as caught:
        sign_bundle(path, folder / name, None if password is None else lambda: password)
    assert not is_signed(path)
    assert sorted(p.name for p in path.iterdir()) == ["context.fp32.onnx", "graphs", MANIFEST]
    secret = pem.splitlines()[1]
    assert secret not in str(caught.value) + caplog.text
    assert not any(secret[i : i + 12] in str(caught.value) for i in range(len(secret) - 12))


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_private_key_that_others_can_read_is_used_with_a_warning(
    signed: Path, keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = Path(shutil.copy(keys / "ours.pem", tmp_path / "ours.pem"))
    for mode, told in ((0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)):
        key.chmod(mode)
        caplog.clear()
        sign_bundle(signed, key)
        assert len(caplog.records) == told
        assert all(f"mode {mode:o}" in record.getMessage() for record in caplog.records)


def test_a_signature_that_cannot_be_written_leaves_the_old_one(
    signed: Path, keys: Path, ours: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (signed / SIGNATURE).read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("diffpose_edge.atomic._sync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        sign_bundle(signed, keys / "theirs.pem")
    monkeypatch.undo()
    assert (signed / SIGNATURE).read_bytes() == before
    assert load_bundle(signed, ours).signer is not None  # and no temporary was left, which would be refused


# --- what changes a signed bundle


def _recorded(bundle: Bundle) -> Bundle:
    return record_verification(bundle, "verify", {"passed": True})


def _fitted(bundle: Bundle) -> Bundle:
    return record_fitted(bundle, ())


def _replaced(bundle: Bundle) -> Bundle:
    return save_bundle(bundle.path, bundle.manifest, GRAPHS, replace_existing=True)


@pytest.mark.parametrize("change", [_recorded, _fitted, _replaced])
def test_whoever_changes_a_signed_bundle_removes_its_signature_and_says_so(
    signed: Path, keys: Path, ours: Trust, change: Callable[[Bundle], Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    changed = change(load_bundle(signed))
    assert not is_signed(signed)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "its signature is removed. Sign it again" in record.getMessage()
    assert str(signed) in record.getMessage()
    assert "is not signed" in refusal(signed, ours)
    assert sign_bundle(signed, keys / "ours.pem").digest == changed.digest
    caplog.clear()
    (signed / SIGNATURE).unlink()
    change(load_bundle(signed))
    assert not caplog.records


def test_a_signature_that_cannot_be_removed_is_said(signed: Path) -> None:
    (signed / SIGNATURE).unlink()
    (signed / SIGNATURE).mkdir()
    with pytest.raises(OutputError, match="no longer fits the manifest"):
        _recorded(load_bundle(signed))


def test_the_digest_is_that_of_the_manifest_and_changes_with_it() -> None:
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of(b" ") != digest_of(b"")
