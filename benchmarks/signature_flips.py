"""Every byte of a signed bundle's manifest and signature, and many of its graphs, with a bit flipped: is the bundle refused each time?

    python -m diffpose_edge.benchmarks.signature_flips BUNDLE

A copy of the bundle is signed with a key that is made for it. Then one bit after another is flipped on the disk, the bundle is loaded as
a robot would, and the bit is put back. Anything but a DiffPoseEdgeError counts as a failure, and is kept with its place. A last round
loads without trust, to show how many flips of the manifest the signature alone finds.
"""

from __future__ import annotations

import json
import platform
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.benchmarks.machine import versions
from diffpose_edge.bundle import MANIFEST, load_bundle
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import say
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.machine import processor
from diffpose_edge.signature_file import SIGNATURE
from diffpose_edge.signing import sign_bundle
from diffpose_edge.trust import Trust


@contextmanager
def flipped(file: Path, byte: int, bit: int) -> Iterator[None]:
    """Flip a bit of a file in place, and put it back on leaving."""
    with open(file, "r+b") as opened:
        opened.seek(byte)
        before = opened.read(1)
        opened.seek(byte)
        opened.write(bytes([before[0] ^ 1 << bit]))
        opened.flush()
        yield
        opened.seek(byte)
        opened.write(before)


def outcomes(path: Path, trust: Trust | None, places: list[tuple[str, int, int]]) -> dict[str, Any]:
    """Load the bundle with each bit flipped, and count what came of it by the error's type; "loaded" where nothing did."""
    counts: Counter[str] = Counter()
    strange, longest, began = [], 0.0, perf_counter()
    for name, byte, bit in places:
        with flipped(path / name, byte, bit):
            start = perf_counter()
            try:
                load_bundle(path, trust)
            except DiffPoseEdgeError as err:
                found = type(err).__name__
            except Exception as err:  # what is looked for: it is counted and kept, and makes the run a failure
                found = f"unexpected {type(err).__name__}"
            else:
                found = "loaded"
            longest = max(longest, perf_counter() - start)
        counts[found] += 1
        if trust is not None and (found == "loaded" or found.startswith("unexpected")):
            strange.append([name, byte, bit, found])
    return {
        "flips": len(places),
        "outcomes": dict(counts.most_common()),
        "not_refused": strange,
        "longest_ms": 1e3 * longest,
        "seconds": perf_counter() - began,
    }


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export; a copy of it is signed.")],
    graph_flips: Annotated[int, typer.Option(help="Bits to flip in the files that the manifest names.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of which bits.")] = 0,
    out: Annotated[Path, typer.Option(help="The result.")] = Path("benchmarks/results/signature_flips.json"),
) -> None:
    """Flip bits of a signed bundle and count how often it is refused."""
    check_file_place(out)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(shutil.copytree(bundle, Path(temporary) / "bundle", ignore=shutil.ignore_patterns("engines", "timings")))
        key = Path(temporary) / "private.pem"
        key.touch(0o600)
        key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        signed = sign_bundle(path, key)
        assert signed.signer is not None
        trust, sizes = Trust((signed.signer,)), {name: entry.bytes for name, entry in signed.manifest.files.items()}
        whole = [(MANIFEST, byte, rng.randrange(8)) for byte in range((path / MANIFEST).stat().st_size)]
        in_signature = [(SIGNATURE, byte, bit) for byte in range((path / SIGNATURE).stat().st_size) for bit in range(8)]
        drawn = rng.choices(list(sizes), weights=list(sizes.values()), k=graph_flips)
        in_graphs = [(name, rng.randrange(sizes[name]), rng.randrange(8)) for name in drawn]
        # The sizes of graphs make a load without trust slow: a part of the manifest's flips shows what it lets through.
        rounds = {
            "manifest, every byte": outcomes(path, trust, whole),
            "signature, every bit": outcomes(path, trust, in_signature),
            "files, bits drawn": outcomes(path, trust, in_graphs),
            "manifest, bytes drawn, without trust": outcomes(path, None, rng.sample(whole, min(len(whole), graph_flips // 4))),
        }
        load_bundle(path, trust)  # every bit was put back
    report = {
        "what": "bits of a signed bundle flipped one by one; what loading it came to, by the type of the error",
        "bundle": {"digest": signed.digest, "files": sizes},
        "seed": seed,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "platform": platform.platform(),
        "versions": versions(("cryptography", "numpy")),
        "rounds": rounds,
    }
    with atomic_file(out) as temporary_path:
        temporary_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, result in rounds.items():
        say(f"{name}: {result['flips']} flips, {result['outcomes']}, the longest check {result['longest_ms']:.1f} ms")
    if any(result["not_refused"] for result in rounds.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_script(main)
