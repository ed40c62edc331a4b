"""Key files of every kind that a user may have at hand, and a small bundle to sign."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from diffpose_edge.bundle_writing import save_bundle
from diffpose_edge.config import BatchShape, GraphNetworkConfig
from diffpose_edge.manifest import Manifest
from diffpose_edge.schedule import RELEASED_TIMESTEPS, released_alpha_bar

from .tiny_graphs import graph_about

PASSWORD = b"a password"
SIZE = GraphNetworkConfig(32, 2, 4)
EMPTY = Manifest(SIZE, SIZE, BatchShape(), tuple(map(float, released_alpha_bar())), RELEASED_TIMESTEPS, {})
GRAPHS = {
    "context.fp32.onnx": ("context", "fp32", graph_about(b"a context")),
    "graphs/step.fp32.onnx": ("step", "fp32", graph_about(b"a step")),
}


def write_keys(folder: Path) -> Path:
    """Write two pairs, "ours" and "theirs", ours protected by a password too, and keys of other kinds; return the folder."""

    def write(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)

    for name in ("ours", "theirs"):
        key = Ed25519PrivateKey.generate()
        write(f"{name}.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write(f"{name}.pub", key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        write(f"{name}.der", key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        write(f"{name}_protected.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD)))
    for name, other in (("rsa", rsa.generate_private_key(65537, 2048)), ("ec", ec.generate_private_key(ec.SECP256R1()))):
        write(f"{name}.pem", other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write(f"{name}.pub", other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return folder


def small_bundle(path: Path, step: bytes = graph_about(b"a step")) -> Path:
    """Write a bundle of made-up graphs, one of them in a folder, and return its path."""
    return save_bundle(path, EMPTY, {**GRAPHS, "graphs/step.fp32.onnx": ("step", "fp32", step)}).path
