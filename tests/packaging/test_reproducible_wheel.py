"""One commit, two clones, two builds: the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from supply.wheels import settled

ROOT = Path(__file__).resolve().parents[2]


def in_git() -> bool:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and Path(done.stdout.strip()) == ROOT


@pytest.mark.slow
@pytest.mark.skipif(not in_git(), reason="this is no checkout: a build is of a commit")
def test_two_builds_of_a_commit_are_the_same_bytes(tmp_path, capsys):
    clone = tmp_path / "elsewhere" / "a clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    builds = []
    for number, (repository, mask, zone) in enumerate(((ROOT, "022", "UTC"), (clone, "077", "Asia/Tokyo"))):
        command = f'umask {mask} && exec "{sys.executable}" -m supply.wheels --repository "{repository}" --out "{tmp_path / str(number)}"'
        done = subprocess.run(command, shell=True, cwd=ROOT, env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        builds.append(done.stdout)
        for line in done.stdout.splitlines():
            digest, name = line.split("  ")
            assert hashlib.sha256((tmp_path / str(number) / name).read_bytes()).hexdigest() == digest
    assert builds[0] == builds[1]
    with capsys.disabled():
        print(f"\n{builds[0]}", end="")
    [made] = (tmp_path / "0").glob("*.whl")
    with zipfile.ZipFile(made) as content:
        assert len({entry.date_time for entry in content.infolist()}) == 1
        assert {name for name in content.namelist() if name.startswith("supply")} == set()


def test_who_packed_an_archive_and_when_is_taken_out(tmp_path):
    """The same files with other times, owners, permissions and order."""
    digests = set()
    for number, (mask, order) in enumerate(((0o644, "ab"), (0o600, "ba"))):
        folder, archive = tmp_path / str(number), tmp_path / f"{number}.tar.gz"
        folder.mkdir()
        with tarfile.open(archive, "w:gz") as tar:
            for name in order:
                path = folder / name
                path.write_text(name)
                path.chmod(mask)
                os.utime(path, (number, number))
                tar.add(path, name)
        before = hashlib.sha256(archive.read_bytes()).hexdigest()
        settled(archive, 1_700_000_000)
        digests.add(hashlib.sha256(archive.read_bytes()).hexdigest())
        assert before not in digests
    assert len(digests) == 1
