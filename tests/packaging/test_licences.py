"""The list of licences is of the lock files, and nobody's licence is one that was not thought about."""

from __future__ import annotations

import re

import pytest

from supply.licence_policy import POLICY, excepted, forbidden
from supply.lockfile import ROOT, brought_by, entries

PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
ROWS = {
    name: (versions.split(", "), licence.removesuffix(" *"), extras)
    for name, versions, licence, extras in re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)[1:]
}
LOCKED = entries("build", "test", "torch-cuda")


def test_the_list_is_of_the_lock_files():
    """Where it is not: make licences."""
    assert {name: versions for name, (versions, _, _) in ROWS.items()} == {
        name: sorted({entry.version for entry in LOCKED if entry.name == name}) for name in {entry.name for entry in LOCKED}
    }
    for name, extras in brought_by(LOCKED).items():
        assert ROWS[name][2] == (", ".join(sorted(extra or "the package itself" for extra in extras)) or "set-up")


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_licence_is_allowed_or_excepted_with_a_reason(name):
    licence = ROWS[name][1]
    assert licence
    assert not forbidden(licence, POLICY) or excepted(name, POLICY)


def test_what_the_runtime_installs_needs_no_exception():
    for entry in entries("runtime-cpu"):
        assert not forbidden(ROWS[entry.name][1], POLICY)
        assert not excepted(entry.name, POLICY)


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "MIT AND AGPL-3.0-only", "UNKNOWN", "BSD License", "(MIT AND SSPL-1.0) OR Zlib"])
def test_a_licence_that_is_not_on_the_list_is_found(licence):
    assert forbidden(licence, POLICY)
    assert not excepted("some-package", POLICY)


def test_every_exception_is_of_a_package_that_is_there_and_is_written_into_the_page():
    for pattern, why in POLICY["exceptions"].items():
        assert any(re.fullmatch(pattern.replace("*", ".*"), name) for name in ROWS), pattern
        assert f"- `{pattern}`: {why}" in PAGE
