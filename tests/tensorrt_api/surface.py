"""Which attributes a module has; run in a process of its own, since a process can import one version of TensorRT only.

    python -I -S surface.py MODULE FOLDER < questions > answers

imports MODULE from FOLDER. ``questions`` is a JSON list of dotted chains below the module ("BuilderFlag.TF32"), the
answer is {"version": the module's, "present": {chain: true or false}}.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def is_present(value: Any, chain: str) -> bool:
    """Whether ``value`` has the whole chain of attributes."""
    for name in chain.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def main() -> None:
    name, folder = sys.argv[1:]
    sys.path.insert(0, folder)
    module = importlib.import_module(name)
    present = {chain: is_present(module, chain) for chain in json.load(sys.stdin)}
    json.dump({"version": module.__version__, "present": present}, sys.stdout)


if __name__ == "__main__":
    main()
