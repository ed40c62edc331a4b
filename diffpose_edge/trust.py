"""Whom a bundle must come from: public keys, digests, and the check of a manifest's bytes against them.

What is checked is what is used: :func:`diffpose_edge.bundle.load_bundle` hands over the bytes that it goes on to read, before it reads
them, and every file that is loaded later is held against the hashes in them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffpose_edge.errors import SignatureError
from diffpose_edge.extras import require
from diffpose_edge.signature_file import DIGEST_PREFIX, digest_of, read_signature

# A fleet's policy, where no program says otherwise: a file of public keys, and "1" to run engines that no signature covers.
KEY_VARIABLE = "DIFFPOSE_TRUSTED_KEY"
ENGINES_VARIABLE = "DIFFPOSE_UNSIGNED_ENGINES"
MOST_KEY_FILE_BYTES = 64 * 2**10
TO_MAKE_PUBLIC = "openssl pkey -in private.pem -pubout -out public.pem"
KeyFiles = str | Path | Sequence[str | Path]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key, 32 bytes, and the file that it was read from."""

    source: str
    raw: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key in DER, hexadecimal: ``openssl pkey -pubin -in public.pem -outform DER | sha256sum``."""
        # RFC 8410: the header of an Ed25519 SubjectPublicKeyInfo is always the same.
        return hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + self.raw).hexdigest()

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` is this key's, of ``content``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Trust:
    """What a bundle has to show: a signature by one of ``keys``, and one of ``digests``; where one of them is empty, the other alone.

    ``unsigned_engines``: TensorRT engines may be run although no signature covers them.
    """

    keys: tuple[PublicKey, ...] = ()
    digests: tuple[str, ...] = ()
    unsigned_engines: bool = False

    def __post_init__(self) -> None:
        if not self.keys and not self.digests:
            raise SignatureError("expected a public key or a digest to check a bundle against, got neither")

    def check(self, folder: Path, manifest: bytes) -> PublicKey | None:
        """Return the key that signed these bytes, the manifest's of the bundle in ``folder``; None where only a digest is asked for.

        Raises SignatureError.
        """
        found = digest_of(manifest)
        if self.digests and found not in self.digests:
            raise SignatureError(
                f"{folder} is another bundle than was asked for: its digest is {found}, expected {' or '.join(self.digests)}"
            )
        if not self.keys:
            return None
        signature = read_signature(folder)
        for key in self.keys:
            if key.has_signed(manifest, signature):
                return key
        told = ", ".join(f"{key.source} ({key.fingerprint[:16]}…)" for key in self.keys)
        raise SignatureError(
            f"the signature of {folder} is not one of {told} for this manifest: another key made it, or it belongs to another bundle, or "
            f"the manifest was altered. Get the bundle again from whom you trust, or have it signed again"
        )

    def backend(self, asked: str) -> str:
        """Return the backend to use where ``asked`` is asked for: "auto" does without engines unless they may be run.

        Raises SignatureError for "tensorrt" then: to load an engine is to run native code, as NVIDIA says.
        """
        if self.unsigned_engines or asked not in ("tensorrt", "auto"):
            return asked
        what = "TensorRT engines are built on each machine, and no signature covers them"
        allow = f"Where nobody else can write to engines/, allow them: unsigned_engines=True, --unsigned-engines or {ENGINES_VARIABLE}=1"
        if asked == "tensorrt":
            raise SignatureError(f"{what}. {allow}")
        log.warning("running on the CPU: %s. %s", what, allow)
        return "onnxruntime"


def trust_of(keys: KeyFiles | None = None, digest: str | None = None, *, unsigned_engines: bool = False) -> Trust | None:
    """Return the trust in files of public keys (PEM) and in a digest ("sha256:…"); of neither, that of the environment, or None.

    Raises SignatureError for a file or a digest that is none, MissingPackage where keys cannot be used.
    """
    if keys is None and digest is None:
        policy = trust_of_environment()
        return replace(policy, unsigned_engines=True) if policy is not None and unsigned_engines else policy
    files = [] if keys is None else [keys] if isinstance(keys, str | Path) else list(keys)
    if keys is not None and not files:
        raise SignatureError("expected files of public keys, got an empty list; leave it out to trust any bundle")
    digests = () if digest is None else (checked_digest(digest),)
    return Trust(tuple(key for file in files for key in public_keys(file)), digests, unsigned_engines)


def trust_of_environment(environment: Mapping[str, str] = os.environ) -> Trust | None:
    """Return the trust that DIFFPOSE_TRUSTED_KEY and DIFFPOSE_UNSIGNED_ENGINES ask for, None where the former is not set.

    Raises SignatureError for values that mean nothing: a mistake there must not let every bundle in. Else as :func:`trust_of`.
    """
    file = environment.get(KEY_VARIABLE)
    if file is None:
        return None
    if not file:
        raise SignatureError(f"{KEY_VARIABLE} is set and empty; name a file of public keys, or unset it to trust any bundle")
    engines = environment.get(ENGINES_VARIABLE, "0")
    if engines not in ("0", "1"):
        raise SignatureError(f"expected {ENGINES_VARIABLE} as 0 or 1, got {engines!r}")
    return Trust(tuple(public_keys(file)), unsigned_engines=engines == "1")


def checked_digest(text: str) -> str:
    """Return a digest as :func:`digest_of` writes it; ``sha256sum`` leaves the prefix out. Raises SignatureError."""
    digits = text.strip().lower().removeprefix(DIGEST_PREFIX)
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise SignatureError(f"expected a digest as {DIGEST_PREFIX} and 64 hexadecimal digits, got {text[:100]!r}")
    return DIGEST_PREFIX + digits


def public_keys(file: str | Path) -> list[PublicKey]:
    """Return the keys in a PEM file: one, or several one after another. Raises SignatureError, MissingPackage."""
    require("cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    keys = []
    content, _ = read_key_file(file)
    for block in _pem_blocks(file, content):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            raise SignatureError(f"{file} holds a public key that cannot be read; expected Ed25519 in PEM: {TO_MAKE_PUBLIC}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise SignatureError(f"{file} holds a public key of another kind; expected Ed25519")
        keys.append(PublicKey(str(file), key.public_bytes(Encoding.Raw, PublicFormat.Raw)))
    return keys


def _pem_blocks(file: str | Path, content: bytes) -> list[bytes]:
    """Return the PUBLIC KEY blocks of a PEM file that holds nothing else of the kind. Raises SignatureError."""
    begin = b"-----BEGIN "
    blocks = [begin + rest for rest in content.split(begin)[1:]]
    if b"PRIVATE KEY-----" in content:
        raise SignatureError(
            f"{file} holds a private key, which has no place where bundles are checked. Take the public one: {TO_MAKE_PUBLIC}"
        )
    if not blocks or not all(block.startswith(begin + b"PUBLIC KEY-----") for block in blocks):
        raise SignatureError(f"{file} is no file of public keys; expected PEM with BEGIN PUBLIC KEY alone: {TO_MAKE_PUBLIC}")
    return blocks


def read_key_file(file: str | Path) -> tuple[bytes, int]:
    """Return the content of a key's file and its mode, as stat has it. Raises SignatureError when it cannot be read, or is too large."""
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(MOST_KEY_FILE_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a null character
        raise SignatureError(f"the key file {str(file)[:200]} cannot be read: {getattr(err, 'strerror', None) or err}") from None
    if len(content) > MOST_KEY_FILE_BYTES:
        raise SignatureError(f"{file} is larger than {MOST_KEY_FILE_BYTES} bytes: no key file; refused")
    return content, mode
