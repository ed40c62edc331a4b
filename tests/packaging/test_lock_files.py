"""The lock files: of what pyproject.toml asks for and nothing else, one with another, whole, and kept to."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from supply.lockfile import LOCKS, ROOT, entries, extras

MADE = ("test", "demo", "runtime-cpu", "build", "supply", "torch-cuda")
SETS = {"test": ["export", "report", "train", "test", "dev"], "demo": ["export", "report", "train"], "runtime-cpu": ["", "cpu"]}
PLATFORMS = [
    {
        "sys_platform": system,
        "platform_system": name,
        "platform_machine": machine,
        "os_name": "posix",
        "platform_python_implementation": "CPython",
    }
    for system, name, machine in (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
]
PYTHONS = [{"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.4"} for minor in (10, 11, 12, 13, 14)]
PLACES = [{**platform, **python, "extra": ""} for platform, python in itertools.product(PLATFORMS, PYTHONS)]


def locked_at(place: dict[str, str], *names: str) -> dict[str, str]:
    """Return the version of each package that lock files install at a place; two of one would be a fault."""
    found: dict[str, str] = {}
    for entry in entries(*names):
        if entry.applies(place):
            assert found.setdefault(entry.name, entry.version) == entry.version, f"{entry.name} twice at {place}"
    return found


@pytest.mark.parametrize("name", SETS)
def test_everything_that_pyproject_asks_for_is_locked_within_its_range(name):
    wants = [want for extra in SETS[name] for want in extras()[extra]] + extras()[""]
    assert len(wants) > 1
    for place in PLACES:
        have = locked_at(place, name, "torch-cuda")
        for want in wants:
            if want.marker is None or want.marker.evaluate(place):
                assert Version(have[canonicalize_name(want.name)]) in want.specifier, f"{want} at {place}"


def test_the_makefile_installs_the_sets_that_are_locked():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = re.search(r"^EXTRAS_demo := (.+)$", text, re.MULTILINE).group(1)
    test = re.search(r"^EXTRAS_test := (.+)$", text, re.MULTILINE).group(1).replace("$(EXTRAS_demo)", demo)
    assert demo.split(",") == SETS["demo"]
    assert test.split(",") == SETS["test"]
    maker = (ROOT / "supply" / "lock.py").read_text(encoding="utf-8")
    for name in SETS:
        line = re.search(rf'^    "{name}": .*$', maker, re.MULTILINE).group()
        assert re.findall(r"--extra=(\w+)", line) == [extra for extra in SETS[name] if extra]


@pytest.mark.parametrize("name", ["demo", "runtime-cpu"])
def test_a_smaller_set_has_the_versions_of_the_tests(name):
    for place in PLACES:
        small, large = locked_at(place, name), locked_at(place, "test", "torch-cuda")
        assert small.items() <= large.items()


def test_pytorchs_two_builds_are_of_one_version():
    [cpu], [any_] = (entries("torch-cpu"), [entry for entry in entries("test") if entry.name == "torch"])
    assert cpu.version == f"{any_.version}+cpu"
    assert not cpu.hashes & any_.hashes


def test_what_the_locked_packages_ask_for_is_locked():
    """Of those that are installed here, by their own metadata."""
    have, seen = locked_at({}, "test", "torch-cuda"), 0
    for name in have:
        try:
            wants = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        seen += 1
        missing = [
            want.name
            for want in wants
            if (want.marker is None or want.marker.evaluate({"extra": ""})) and canonicalize_name(want.name) not in have
        ]
        assert not missing, f"{name} asks for {missing}"
    assert seen > 50


@pytest.mark.parametrize("name", [*MADE, "torch-cpu"])
def test_every_entry_has_hashes_and_no_file_names_a_place(name):
    locked = entries(name)
    assert locked
    assert all(entry.hashes for entry in locked)
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|--index|--find-links|/(tmp|opt|work|home|root)\b", text)


def wheel(folder: Path) -> tuple[Path, str]:
    """Write a package of one module; return it with its SHA-256."""
    path = folder / "diffpose_locked_probe-1.0-py3-none-any.whl"
    files = {
        "diffpose_locked_probe.py": b"",
        "diffpose_locked_probe-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: diffpose-locked-probe\nVersion: 1.0\n",
        "diffpose_locked_probe-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},{len(content)}\n"
        for name, content in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, "diffpose_locked_probe-1.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(name, content)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("altered", "said"), [(False, "1 True"), (True, "DO NOT MATCH THE HASHES")])
def test_a_file_with_another_hash_is_refused(tmp_path, altered, said):
    path, digest = wheel(tmp_path)
    if altered:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("diffpose_locked_probe_more.py", "")
    (tmp_path / "probe.txt").write_text(f"diffpose-locked-probe==1.0 \\\n    --hash=sha256:{digest}\n")
    program = f"""
from pathlib import Path
import supply.install as install
install.LOCKS = Path({str(tmp_path)!r})
print(1, install.locked("probe", may_lack=True))
"""
    # Nothing is installed: pip is told to try only.
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_DRY_RUN": "1", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert said in done.stdout + done.stderr
    assert done.returncode == int(altered)
    if altered:
        assert "supply/locks/probe.txt" in done.stderr


def test_a_package_that_no_index_has_is_lacking_only_where_it_may(tmp_path, monkeypatch):
    from supply import install

    (tmp_path / "probe.txt").write_text(f"diffpose-locked-probe==1.0 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(install, "LOCKS", tmp_path)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_DRY_RUN": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not install.locked("probe", may_lack=True)
    with pytest.raises(SystemExit, match="make LOCK="):
        install.locked("probe")
