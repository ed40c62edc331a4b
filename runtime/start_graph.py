"""The start of the reverse process as a graph, so that a whole frame can stay on the GPU between the encoder and the steps.

All of a start but its x, y, z is known before the encoder has run. The host writes that into ``base``, zeros elsewhere, and
the graph adds the encoder's pose relative to the hip, times ``scale``, to the channels of x, y, z:

- released weights: base = (u, v, 0, 0, 0), scale = 1: the start x itself;
- "noised": base = (sqrt(a) u + n, sqrt(a) v + n, n, n, n) with n = sqrt(1 - a) e, scale = sqrt(a): likewise;
- a start distribution: base = (mu_u, mu_v, 0, 0, 0, log sigma), scale = 1: what the denoiser is told of the start. Sigma
  does not depend on the encoder, and the state is whitened, so it does not either.
"""

from __future__ import annotations

from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.manifest import Manifest, Shapes
from diffpose_edge.skeleton import J

# Where x, y, z stand among the channels, in both forms.
XYZ = slice(2, 5)


def start_io(manifest: Manifest) -> tuple[Shapes, Shapes]:
    """Return names and shapes of the start graph's inputs and outputs."""
    rows, _, channels = manifest.shape.state
    out, width = ("start", START_CHANNELS) if manifest.process.kind == "distribution" else ("x", channels)
    return {"xyz": (manifest.shape.P, J, 3), "base": (rows, J, width), "scale": (1,)}, {out: (rows, J, width)}
