"""What stands between a bundle's graph and ONNX Runtime: names, shapes and types at its border, and what it fails with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxruntime as ort

from diffpose_edge.errors import BundleError, DiffPoseEdgeError
from diffpose_edge.manifest import SAMPLES, Shapes


def check_border(session: Any, role: str, border: tuple[Shapes, Shapes]) -> None:
    """Raise BundleError unless a session takes and gives what the manifest means, names and shapes, in float32.

    A first size may be free, if it is called SAMPLES.
    """
    for wanted, found in zip(border, (session.get_inputs(), session.get_outputs()), strict=True):
        actual = {value.name: tuple(value.shape) for value in found}
        free = {name: (*wanted.get(name, size)[:1], *size[1:]) if size[:1] == (SAMPLES,) else size for name, size in actual.items()}
        if free != wanted or any(value.type != "tensor(float)" for value in found):
            raise BundleError(f"the {role} graph takes or gives {actual}, the manifest's shapes mean {wanted}; export the bundle again")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Raise BundleError, which begins with ONNX Runtime's version and that it cannot ``what``, for what ONNX Runtime fails with.

    Its own exceptions share no base, and memory that it does not get is a MemoryError or one of them: the cause stays attached.
    """
    try:
        yield
    except DiffPoseEdgeError:
        raise
    except Exception as err:
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot {what}: {err}") from err
