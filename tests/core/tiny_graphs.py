"""Graphs that nobody runs: ONNX as its bytes, for tests of what becomes of bundles' files."""

from __future__ import annotations


def graph_about(text: bytes) -> bytes:
    """Return an ONNX model in its bytes, whose graph has no nodes and this text (fewer than 100 letters) for a description."""
    return bytes([7 << 3 | 2, len(text) + 2, 10 << 3 | 2, len(text)]) + text
