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
    "torch": Optional("torch", "export", "export, verify and the PyTorch reference"),
    "onnx": Optional("onnx", "export", "export and verify"),
    "onnxscript": Optional("onnxscript", "export", "export"),
    "matplotlib": Optional("matplotlib", "report", "the demo's pictures"),
    "PIL": Optional("pillow", "report", "the demo's pictures"),
}


def is_installed(module: str) -> bool:
    """Tell whether ``module`` could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def install_command(module: str) -> str:
    """Return the pip command that brings an optional package."""
    optional = OPTIONAL[module]
    return f"pip install {optional.pip}   (or everything for it, in a checkout: pip install '.[{optional.extra}]')"


def require(*modules: str) -> None:
    """Raise MissingPackage, naming the pip command, when one of the modules is not installed."""
    for module in modules:
        if not is_installed(module):
            raise MissingPackage(
                f"{OPTIONAL[module].purpose}: needs the package '{module}', which is not installed. Run: {install_command(module)}"
            )
