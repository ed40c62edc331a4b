"""The packages: one import package over top-level folders. Everything else is in pyproject.toml."""

from setuptools import setup

SUB_PACKAGES = {
    "diffpose_edge.reference": "reference",
    "diffpose_edge.reference.datasets": "reference/datasets",
    "diffpose_edge.reference.training": "reference/training",
    "diffpose_edge.export": "export",
    "diffpose_edge.calibration": "calibration",
    "diffpose_edge.runtime": "runtime",
    "diffpose_edge.runtime.bridges": "runtime/bridges",
    "diffpose_edge.benchmarks": "benchmarks",
    "diffpose_edge.benchmarks.peers": "benchmarks/peers",
}

setup(
    packages=[
        "diffpose_edge",
        "diffpose_edge.cli",
        "diffpose_edge.detector",
        "diffpose_edge.formats",
        "diffpose_edge.viewer",
        *SUB_PACKAGES,
    ],
    package_dir={
        "diffpose_edge": "diffpose_edge",
        "diffpose_edge.cli": "diffpose_edge/cli",
        "diffpose_edge.detector": "diffpose_edge/detector",
        "diffpose_edge.formats": "diffpose_edge/formats",
        "diffpose_edge.viewer": "diffpose_edge/viewer",
        **SUB_PACKAGES,
    },
    package_data={
        "diffpose_edge": ["py.typed", "data/*", "weights/*/*.safetensors", "weights/*/schedules.json", "weights/*/range.json"],
        "diffpose_edge.detector": ["requirements.txt"],
        "diffpose_edge.benchmarks": ["*.j2"],
        "diffpose_edge.viewer": ["page/*", "libraries/*"],
    },
)
