"""A runtime in a few words: which bundle, run by what, how large. Nothing of where it lies or whose it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from diffpose_edge.manifest import Manifest


def bundle_digest(manifest: Manifest) -> str:
    """Return 16 hexadecimal digits that stand for all files of a bundle: the beginning of a SHA-256 over their names and hashes.

    Records of verification are no part of it: a bundle that was verified again is the same bundle.
    """
    files = {name: entry.sha256 for name, entry in manifest.files.items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def about_runtime(manifest: Manifest, backend: Mapping[str, Any], precision: str) -> dict[str, str | int]:
    """Return a runtime's bundle, backend, precision and sizes. ``backend``: what it describes itself by."""
    shape = manifest.shape
    return {
        "bundle": bundle_digest(manifest),
        "backend": f"{backend.get('backend', 'unknown')} {backend.get('version', '')}".strip(),
        "precision": precision,
        "process_kind": manifest.process.kind,
        "P": shape.P,
        "N": shape.N,
        "F": shape.F,
        "K": len(manifest.timesteps),
    }
