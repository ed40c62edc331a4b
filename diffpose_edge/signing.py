"""Signing a bundle with a private key, which is read, used once and forgotten: never copied, never shown.

Where the private key is, no robot should be. Verifying is :mod:`diffpose_edge.trust`.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diffpose_edge.atomic import atomic_file
from diffpose_edge.bundle import MANIFEST, Bundle, bundle_of, load_bundle, read_manifest
from diffpose_edge.errors import SignatureError
from diffpose_edge.extras import require
from diffpose_edge.signature_file import SIGNATURE, check_nothing_added
from diffpose_edge.trust import PublicKey, Trust, read_key_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSWORD_VARIABLE = "DIFFPOSE_KEY_PASSWORD"
TO_MAKE_PRIVATE = "openssl genpkey -algorithm ed25519 -out private.pem"
log = logging.getLogger(__name__)


def whole_bundle(path: str | Path) -> tuple[Bundle, bytes]:
    """Return a bundle that has all its files and nothing else in its folder, and its manifest's bytes: what a signature is of.

    Raises BundleError, or SignatureError for a file that the manifest does not name.
    """
    manifest = read_manifest(path)
    bundle = bundle_of(path, manifest)
    check_nothing_added(bundle.path, (MANIFEST, *bundle.manifest.files))
    return bundle, manifest


def sign_bundle(path: str | Path, key_file: str | Path, password: Callable[[], bytes] | None = None) -> Bundle:
    """Sign a bundle with an Ed25519 private key (PEM), replacing an older signature, and return it as :func:`load_bundle` does.

    ``password`` is asked when the key is protected by one. The signature is written whole or not at all. Raises BundleError and
    SignatureError for what should not be signed, and for a key that cannot be used; OutputError, MissingPackage.
    """
    bundle, manifest = whole_bundle(path)
    key = _private_key(key_file, password)
    public = _public_half(key_file, key)
    with atomic_file(bundle.path / SIGNATURE) as temporary:
        temporary.write_bytes(key.sign(manifest))
    # As anybody else will check it: had the bundle been changed meanwhile, what was written would be worth nothing.
    return load_bundle(path, Trust((public,)))


def _private_key(file: str | Path, password: Callable[[], bytes] | None) -> Ed25519PrivateKey:
    """Read a private key. Raises SignatureError, MissingPackage; logs a warning where others can read the file."""
    require("cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content, mode = read_key_file(file)
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("%s holds a private key and is open to others (mode %o): chmod 600 it", file, stat.S_IMODE(mode))
    if b"PRIVATE KEY-----" not in content:
        what = "a public key" if b"PUBLIC KEY-----" in content else "no key in PEM"
        raise SignatureError(f"{file} holds {what}; expected a private key. Make one with: {TO_MAKE_PRIVATE}")
    try:
        try:
            key = load_pem_private_key(content, password=None)
        except TypeError:  # what cryptography raises for a key that is protected
            if password is None:
                raise SignatureError(f"{file} is protected by a password; set {PASSWORD_VARIABLE}, or sign at a terminal") from None
            key = load_pem_private_key(content, password=password())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own words may hold parts of what it read; these do not.
        raise SignatureError(
            f"{file} holds a private key that cannot be read: it is damaged, or the password is not the right one"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{file} holds a private key of another kind; expected Ed25519. Make one with: {TO_MAKE_PRIVATE}")
    return key


def _public_half(file: str | Path, key: Ed25519PrivateKey) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return PublicKey(str(file), key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
