"""Every public entry, called with what nobody means: a well-formed result, or an error that says what was expected."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diffpose_edge import errors
from diffpose_edge.errors import DiffPoseEdgeError
from tests.fuzz.rule import unclear

from .entries import ELSEWHERE, ENTRIES
from .junk import instead_of

# What docs/ and README.md tell users to import.
MODULES = (
    "keypoints", "mixtures", "heatmaps", "layouts", "schedule", "samplers", "distribution", "camera", "camera_files", "placing", "body",
    "body_scale", "root", "facing", "metrics", "uncertainty", "bones", "evaluation", "fitted", "bundle", "bundle_writing", "manifest",
    "timings", "engines", "formats", "runtime",
)  # fmt: skip
_NAMES = "|".join(name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, DiffPoseEdgeError))
RAISES = re.compile(rf"Raises[^\0]*\b({_NAMES})\b")


def _public() -> Iterator[str]:
    """Yield what says that it raises a DiffPoseEdgeError, as module.name or module.class.method."""
    for module_name in MODULES:
        module = importlib.import_module(f"diffpose_edge.{module_name}")
        package = hasattr(module, "__path__")
        for name, one in vars(module).items():
            if name.startswith("_") or (getattr(one, "__module__", "") != module.__name__ and not package):
                continue
            if inspect.isfunction(one) and RAISES.search(one.__doc__ or ""):
                yield f"{module_name}.{name}"
            if inspect.isclass(one) and not issubclass(one, Exception):
                if RAISES.search(one.__doc__ or ""):
                    yield f"{module_name}.{name}"
                for method_name, method in vars(one).items():
                    method = getattr(method, "__func__", method)
                    if not method_name.startswith("_") and inspect.isfunction(method) and RAISES.search(method.__doc__ or ""):
                        yield f"{module_name}.{name}.{method_name}"


def test_every_public_entry_is_tried() -> None:
    public = set(_public())
    assert len(public) > 40
    assert not public - set(ENTRIES) - set(ELSEWHERE), "add it to tests/properties/entries.py"
    assert not set(ELSEWHERE) - public, "no longer there: remove it from tests/properties/entries.py"


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_meant_is_accepted(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.well_formed(entry.call(**entry.arguments))


@pytest.mark.parametrize("name", ENTRIES)
@settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_what_nobody_means_gives_a_result_or_a_clear_error(name: str, data: st.DataObject) -> None:
    entry = ENTRIES[name]
    names = data.draw(
        st.lists(st.sampled_from([name for name in entry.arguments if name not in entry.fixed]), min_size=1, max_size=2, unique=True)
    )
    exchanged = {name: data.draw(instead_of(entry.arguments[name])) for name in names}
    said = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of numbers that overflow on their way to being refused
            result = entry.call(**{**entry.arguments, **exchanged})
    except DiffPoseEdgeError as err:
        said = unclear(str(err))
    except entry.also:
        pass
    else:
        assert entry.well_formed(result)
    assert said is None
