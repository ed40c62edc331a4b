"""Optional packages: which part needs them, and the command that brings them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from diffpose_edge.errors import MissingPackage


@dataclass(frozen=True)
class Optional:
    """An optional package: the name to give to pip, the extra that has it, and what it is for."""

    pip: str
    extra: str
    purpose: str


# By import name, in the order in which doctor lists them.
OPTIONAL = {
    "onnxruntime": Optional("onnxruntime", "cpu", "run bundles on the CPU"),
    "typer": Optional("typer", "cli", "the command line"),
    "rich": Optional("rich", "cli", "the command line"),
    "torch": Optional("torch", "export", "export, verify, training and the PyTorch reference"),
    "onnx": Optional("onnx", "export", "export and verify"),
    "onnx_ir": Optional("onnx-ir", "export", "export and calibrate"),
    "onnxscript": Optional("onnxscript", "export", "export"),
    "sklearn": Optional("scikit-learn", "train", "fit mixtures to samples"),
    "matplotlib": Optional("matplotlib", "report", "pictures"),
    "safetensors": Optional("safetensors", "train", "training, and reading what was trained"),
    "PIL": Optional("pillow", "report", "pictures"),
    "tensorrt_rtx": Optional("tensorrt_rtx_cu13", "rtx", "see how TensorRT builds a graph, without a GPU"),
    "tensorrt": Optional("tensorrt", "tensorrt", "build and run TensorRT engines"),
    "cuda.bindings": Optional("cuda-bindings", "cuda", "run engines on a GPU"),
    "pycuda": Optional("pycuda", "pycuda", "run engines on a GPU, instead of cuda-bindings"),
    "scipy": Optional("scipy", "tracking", "keep people's identities in a stream (without it: tracking=None, and ids of your own)"),
    "pynvml": Optional("nvidia-ml-py", "telemetry", "power and clocks of an NVIDIA GPU in 'bench'"),
    "jinja2": Optional("jinja2", "report", "HTML pages: the report of 'bench', and 'view'"),
    "av": Optional("av", "report", "films of poses (mp4)"),
    "polygraphy": Optional("polygraphy", "export", "verify lower precisions, and build engines"),
    "platformdirs": Optional("platformdirs", "detector", "find the folder for the detector's environment"),
    "cyclonedds": Optional("cyclonedds", "dds", "keypoints in and poses out over DDS"),
    "rosbags": Optional("rosbags", "ros", "read and write ROS 2 bags"),
    "foxglove": Optional("foxglove-sdk", "foxglove", "the live view in Foxglove"),
    "prometheus_client": Optional("prometheus-client", "metrics", "metrics for Prometheus"),
    "pythonjsonlogger": Optional("python-json-logger", "logs", "log records as lines of JSON"),
    "cryptography": Optional("cryptography", "sign", "sign bundles, and check their signatures"),
    "openvino": Optional("openvino", "peers", "measure OpenVINO beside the runtime"),
}


def is_installed(module: str) -> bool:
    """Tell whether ``module`` could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def install_command(module: str, extra: str | None = None) -> str:
    """Return the pip command that brings an optional package; ``extra``: the one to name instead of the package's usual one."""
    optional = OPTIONAL[module]
    return f"pip install {optional.pip}   (or everything for it, in a checkout: pip install '.[{extra or optional.extra}]')"


def require(*modules: str, extra: str | None = None) -> None:
    """Raise MissingPackage, naming the pip command (see :func:`install_command`), when one of the modules is not installed."""
    for module in modules:
        if not is_installed(module):
            raise MissingPackage(
                f"{OPTIONAL[module].purpose}: needs the package '{module}', which is not installed. Run: {install_command(module, extra)}"
            )
