"""`make wheel`: the wheel and the source archive of a commit, the same bytes whoever builds them, into dist/.

They are built of what git holds at the commit, not of the folder's files; with the commit's time, fixed permissions and the
locked setuptools. The wheel is built from the source archive, which is so shown to be whole. Compression is zlib's: another zlib
(another Python build) may give other bytes of the same content.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str, repository: Path) -> bytes:
    return subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True).stdout


def settled(archive: Path, time: int) -> None:
    """Write a .tar.gz again with its members in order, and without what tells when, where and by whom it was made."""
    with tarfile.open(archive) as old:
        members = [(m, b"" if m.isdir() else old.extractfile(m).read()) for m in sorted(old.getmembers(), key=lambda m: m.name)]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member, content in members:
            clean = tarfile.TarInfo(member.name)
            clean.type, clean.size, clean.mtime = member.type, len(content), time
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(clean, io.BytesIO(content))
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=time))


def built(repository: Path, commit: str, out: Path) -> dict[str, str]:
    """Build `commit` into `out`; return the SHA-256 of each file, by name."""
    time = git("log", "-1", "--format=%ct", commit, repository=repository).decode().strip()
    out.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder) / "source", Path(folder) / "made"
            with tarfile.open(fileobj=io.BytesIO(git("-c", "tar.umask=0022", "archive", commit, repository=repository))) as tree:
                tree.extractall(source)
            environment = {**os.environ, "SOURCE_DATE_EPOCH": time, "PYTHONHASHSEED": "0"}
            build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made)]
            for step in (["--sdist", str(source)], ["--wheel"]):
                if step == ["--wheel"]:
                    [archive] = made.glob("*.tar.gz")
                    settled(archive, int(time))
                    with tarfile.open(archive) as tree:
                        tree.extractall(folder)
                    step.append(str(Path(folder) / archive.name.removesuffix(".tar.gz")))
                done = subprocess.run([*build, *step], env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{' '.join(step)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            hashes = {}
            for path in sorted(made.iterdir()):
                content = path.read_bytes()
                (out / path.name).write_bytes(content)
                hashes[path.name] = hashlib.sha256(content).hexdigest()
            return hashes
    finally:
        os.umask(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=ROOT)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    for name, digest in built(given.repository, given.commit, given.out).items():
        print(f"{digest}  {name}")


if __name__ == "__main__":
    main()
