"""``diffpose-edge sign`` and ``diffpose-edge verify-signature``"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.terminal import err, say, telling
from diffpose_edge.errors import SignatureError
from diffpose_edge.signature_file import NOT_COVERED, SIGNATURE
from diffpose_edge.signing import PASSWORD_VARIABLE, sign_bundle, whole_bundle
from diffpose_edge.trust import KEY_VARIABLE, trust_of


def sign(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    key: Annotated[
        Path | None, typer.Option(help="An Ed25519 private key (PEM). Without one nothing is written, and the bundle's digest is printed.")
    ] = None,
) -> None:
    """Sign a bundle, so that others can tell whom it comes from and that nothing in it was altered; or print its digest.

    A key is made with: openssl genpkey -algorithm ed25519 -out private.pem. The password of a protected one is asked for, or taken from
    DIFFPOSE_KEY_PASSWORD. The signature, manifest.json.sig, covers all but engines/ and timings/, which are made on each machine.
    """
    if key is None:
        whole, _ = whole_bundle(bundle)
        say(whole.digest)
        err.print(
            f"nothing was written. Whoever has this digest from you checks the bundle with: "
            f"diffpose-edge verify-signature {shlex.quote(str(bundle))} --hash {whole.digest}",
            markup=False,
            soft_wrap=True,
        )
        return
    with telling():
        signed = sign_bundle(bundle, key, lambda: _password(key))
    assert signed.signer is not None
    say(f"wrote {bundle / SIGNATURE}, by the key with the fingerprint {signed.signer.fingerprint}")
    say(signed.digest)


def verify_signature(
    bundle: Annotated[Path, typer.Argument(help="A bundle that should be signed.")],
    key: Annotated[list[Path] | None, typer.Option(help="File of public keys (PEM); may be given several times: one has to fit.")] = None,
    digest: Annotated[
        str | None, typer.Option("--hash", help="The digest that the bundle must have, sha256:…, as 'sign' prints it.")
    ] = None,
) -> None:
    """Check whom a bundle comes from, and that every file of it is as it was signed. Without --key and --hash: by DIFFPOSE_TRUSTED_KEY.

    Exit status: 0 when everything holds, 2 when anything does not.
    """
    trust = trust_of(key or None, digest)
    if trust is None:
        raise SignatureError(f"expected --key or --hash, or {KEY_VARIABLE} to be set: there is nothing to check the bundle against")
    loaded = load_bundle(bundle, trust)
    say(loaded.digest)
    by = f"signed by {loaded.signer.source} ({loaded.signer.fingerprint}), and " if loaded.signer else ""
    say(f"{bundle} is {by}whole: the manifest and {len(loaded.manifest.files)} files")
    for name in NOT_COVERED:
        if os.path.lexists(bundle / name):
            say(f"not covered: {name}/, which is of one machine")


def _password(key: Path) -> bytes:
    """Return the password of a private key: the environment's, else what is typed. Raises SignatureError where nobody can be asked."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is None:
        if not sys.stdin.isatty():
            raise SignatureError(f"{key} is protected by a password; set {PASSWORD_VARIABLE}, or sign at a terminal")
        given = typer.prompt(f"Password of {key}", hide_input=True, err=True)
    return str(given).encode()
