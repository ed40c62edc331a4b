"""Names and shapes of what the graph of a causal video encoder takes and gives for its memory of past frames."""

from __future__ import annotations

from diffpose_edge.config import CausalConfig
from diffpose_edge.errors import EngineError
from diffpose_edge.skeleton import J

Shapes = dict[str, tuple[int, ...]]

AGES = "ages"


def cache_io(config: CausalConfig, P: int) -> tuple[Shapes, Shapes]:
    """Return what a causal encoder's graph takes besides the observation of P people, and what it gives besides their poses.

    ``ages`` (P, F - 1): of the frames in the slots, 1 for the frame before, F for none. For each temporal layer i ``keys<i>``
    (P, 17, heads, C / heads, F - 1), as the scores take them, and ``values<i>`` (P, 17, heads, F - 1, C / heads); and of the frame
    itself ``key<i>`` and ``value<i>`` (P, 17, heads, C / heads).
    """
    slots, each = config.frames - 1, config.width // config.heads
    taken: Shapes = {AGES: (P, slots)}
    given: Shapes = {}
    for i in range(config.depth):
        taken |= {f"keys{i}": (P, J, config.heads, each, slots), f"values{i}": (P, J, config.heads, slots, each)}
        given |= {f"key{i}": (P, J, config.heads, each), f"value{i}": (P, J, config.heads, each)}
    return taken, given


def refuse_on_gpu(causal: CausalConfig | None) -> None:
    """Raise EngineError for a ``causal`` encoder: its caches are kept where the host writes them, and no GPU backend does that yet."""
    if causal is not None:
        raise EngineError(
            "this bundle has a causal encoder, whose caches no GPU backend keeps yet: expected the backend 'onnxruntime', on the CPU. "
            "On a GPU take a frame encoder, or a video encoder with a hop (PoseRuntime.stream)"
        )
