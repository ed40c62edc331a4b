"""Every seed, every former finding, and a few changed inputs of each, for every target: no crash, no unclear error, none slow."""

from __future__ import annotations

import warnings
from random import Random

import pytest

from tests.fuzz.mutators import blind
from tests.fuzz.rule import outcome_of
from tests.fuzz.target import FOUND, SEEDS, Target
from tests.fuzz.targets import ALL, NAMES, target_named

CHANGED = 25
NEEDS = {"of_checkpoints": ("torch", "safetensors"), "of_messages": ("rosbags", "cyclonedds")}


def _target(name: str) -> Target:
    module = next(module for module, names in NAMES.items() if name in names)
    for package in NEEDS.get(module, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return target_named(name)


@pytest.mark.parametrize("name", ALL)
def test_seeds_former_findings_and_what_is_made_of_them(name: str) -> None:
    target, random = _target(name), Random(name)
    seeds = [path.read_bytes() for path in (*target.seeds(), *target.found())]
    assert target.seeds(), "a target needs a committed seed: tests/fuzz/make_seeds.py"
    inputs = list(seeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, about what is in these files
        inputs += [target.mutate(random.choice(seeds), random, blind(random)) for _ in range(CHANGED)]
        wrong = [outcome.finding for data in inputs if (outcome := outcome_of(target.run, data, target.allowed)).finding]
    assert not wrong


def test_at_least_one_seed_of_each_target_is_accepted() -> None:
    """A target that refuses all that it begins with never comes far."""
    light = [name for module, names in NAMES.items() if module not in NEEDS for name in names]
    for name in light:
        target = target_named(name)
        assert any(not outcome_of(target.run, path.read_bytes(), target.allowed).refused for path in target.seeds()), name


def test_every_folder_of_inputs_belongs_to_a_target() -> None:
    assert {path.name for folder in (SEEDS, FOUND) for path in folder.iterdir()} <= set(ALL)
