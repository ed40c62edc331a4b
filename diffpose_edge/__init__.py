"""DiffPose on the edge: export a trained DiffPose to ONNX and run its reverse diffusion without PyTorch.

This package is the shared vocabulary (skeleton, schedule, bundle, errors) and needs numpy alone. The other parts are
its sub-packages: ``reference`` and ``export`` need PyTorch, ``runtime`` needs numpy and one inference backend.
"""

import os as _os
from pathlib import Path as _Path

__version__ = "0.1.0"

# From 1.29 on ONNX Runtime's packages for Linux tell Microsoft of each session unless this was set before they are imported. A robot's
# do not; and the thread that does it would keep a forked child from ending. Whoever has set it has decided.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The sub-packages live beside this folder in a checkout (runtime/ is diffpose_edge.runtime); an installed wheel has them
# inside. With the checkout's root on the path, a checkout works without being installed.
_checkout = _Path(__file__).resolve().parent.parent
if (_checkout / "setup.py").is_file() and (_checkout / "runtime" / "__init__.py").is_file():
    __path__.append(str(_checkout))
