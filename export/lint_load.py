"""Read an ONNX file for inspection: nothing is executed, and weights that lie beside it are only checked to be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # its stubs are a package of their own

from diffpose_edge.errors import LintError
from diffpose_edge.reading import read_file

# A protobuf message cannot be larger; what would be must keep its weights in a file beside it.
MAX_BYTES = 2**31 - 1


def read_model(path: str | Path) -> onnx.ModelProto:
    """Return the model at ``path`` without the weights that it keeps in other files.

    Raises LintError when the file is not there, too large, damaged or not ONNX, or when the other files are missing.
    """
    path = Path(path)
    try:
        is_file, size = path.is_file(), path.stat().st_size
        if not is_file:
            raise LintError(f"expected an ONNX file, but {path} is {'a folder' if path.is_dir() else 'no regular file'}")
        if size > MAX_BYTES:
            raise LintError(f"{path} has {size} bytes, an ONNX file at most {MAX_BYTES}: save it with its weights as external data")
        content = read_file(path, MAX_BYTES)
    except FileNotFoundError:
        raise LintError(f"expected an ONNX file, but {path} does not exist") from None
    except (OSError, ValueError) as err:  # no permission, a name too long, a null character
        raise LintError(f"{str(path)[:200]!r} cannot be read: {getattr(err, 'strerror', None) or err}") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise LintError(f"{path} is not an ONNX file, or is damaged: {_first_line(err)}") from None
    # Protobuf takes many a file for a message with unknown fields.
    if not model.HasField("graph") or model.ir_version < 1 or not (model.graph.node or model.graph.output):
        raise LintError(f"{path} is not an ONNX file, or is damaged: it holds no graph")
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise LintError(f"{path} is damaged: a name in it is not UTF-8 text")
    _check_external(model, path)
    return model


def graphs_of(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and every graph inside it and inside the model's functions."""
    yield model.graph
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        for attribute in waiting.pop().attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph
                waiting += graph.node


def is_external(tensor: onnx.TensorProto) -> bool:
    """Tell whether the tensor's values lie in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """Return file, offset and length of an external tensor's values. Raises LintError unless they are there, inside ``folder``."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        file = folder / location
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
        if not location or os.path.isabs(location) or not file.resolve().is_relative_to(folder.resolve()):
            raise LintError(f"the weights {tensor.name!r} are kept in {location!r}, which is not inside {folder}; refused")
        if not file.is_file() and file.exists():
            raise LintError(f"the weights {tensor.name!r} are kept in {location!r}, which is a folder, a pipe or a device; refused")
        size = file.stat().st_size
    except FileNotFoundError:
        raise LintError(f"the weights {tensor.name!r} are kept in {file}, which does not exist: copy it too") from None
    except (OSError, ValueError, RuntimeError) as err:
        raise LintError(f"the weights {tensor.name!r} are kept in {location[:200]!r}, which cannot be read: {err}") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise LintError(f"the weights {tensor.name!r} end at byte {offset + length} of {file}, which has {size}: copy it again")
    return file, offset, length or size - offset


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Yield every name that the rules look at. Protobuf gives those that are not UTF-8 as bytes."""
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from (entry.domain for entry in function.opset_import)
    for graph in (*graphs_of(model), *model.functions):
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (attribute.name for attribute in node.attribute)
    for graph in graphs_of(model):
        yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
        for tensor in graph.initializer:
            yield tensor.name
            yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
        yield from (sparse.values.name for sparse in graph.sparse_initializer)


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            if is_external(tensor):
                external_place(tensor, path.parent)


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
