"""Benchmarks. Each is a module to run: python -m diffpose_edge.benchmarks.<name>."""
