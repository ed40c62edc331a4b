"""Trained networks on disk: safetensors files that carry their own configuration. No pickle, nothing to guess.

The metadata's ``diffpose-edge`` entry is JSON: ``network`` ("denoiser", "frame encoder", "video encoder" or "causal video encoder"),
``config``, and whatever belongs to the trained network (schedule, start spread, provenance).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffpose_edge.atomic import atomic_file
from diffpose_edge.config import MAX_WIDTH, CausalConfig, GraphNetworkConfig, VideoConfig
from diffpose_edge.errors import CheckpointError, told_by
from diffpose_edge.extras import require
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import open_file
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.checkpoints import MOST_BYTES, check_fit, layers_of, load_strictly
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE

ENTRY = "diffpose-edge"
MOST_LAYERS_MORE = 8
Network = Denoiser | FrameEncoder | MixSTE | CausalMixSTE
_KINDS: dict[str, type[Network]] = {
    "denoiser": Denoiser,
    "frame encoder": FrameEncoder,
    "video encoder": MixSTE,
    "causal video encoder": CausalMixSTE,
}


@dataclass(frozen=True)
class TrainedFile:
    """A network in evaluation mode and the record that came with it."""

    network: Network
    record: dict[str, Any]


def config_record(network: Network) -> dict[str, Any]:
    """Return what it takes to build the network again: its kind and the arguments of its constructor."""
    if isinstance(network, MixSTE | CausalMixSTE):
        mlp = network.STEblocks[0].mlp.fc1.out_features
        sizes = {"frames": network.frames, "width": network.width, "depth": network.depth, "heads": network.heads}
        kind = "causal video encoder" if isinstance(network, CausalMixSTE) else "video encoder"
        return {"network": kind, "config": {**sizes, "mlp_width": mlp, "channels": network.channels}}
    sizes = {"hidden": network.hidden, "layers": network.layers, "heads": network.heads}
    if isinstance(network, Denoiser):
        return {"network": "denoiser", "config": {**sizes, "condition": network.condition_width}}
    return {"network": "frame encoder", "config": {**sizes, "channels": network.channels}}


def save_trained(network: Network, record: dict[str, Any], path: str | Path) -> None:
    """Write a network with its configuration and ``record`` (JSON values). Atomic. Raises OutputError."""
    require("safetensors")
    from safetensors.torch import save

    text = json.dumps({**config_record(network), **record}, allow_nan=False)
    weights = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    content = save(weights, metadata={ENTRY: text})
    with atomic_file(path) as temporary:
        # Not with save_file: what it raises on a full disk is no OSError.
        temporary.write_bytes(content)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the record of a safetensors file of ours. Raises CheckpointError."""
    require("safetensors")
    from safetensors import safe_open

    try:
        # Looked at first: to open a pipe waits. The reader holds what the header says against the file's size itself.
        open_file(path, MOST_BYTES).close()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; check the path") from None
    except Exception as err:  # the reader's own error type is not a public name
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {told_by(err)}") from err
    try:
        record = json_of(metadata[ENTRY])
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{path} carries no '{ENTRY}' record, so what network it holds is not known; expected a file written by diffpose-edge train"
        ) from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: expected its '{ENTRY}' record to be a JSON object, got {type(record).__name__}")
    return weights, record


def load_trained(path: str | Path) -> TrainedFile:
    """Load a network written by :func:`save_trained`. Raises CheckpointError."""
    weights, record = read_safetensors(path)
    kind, config = record.get("network"), record.get("config")
    if not isinstance(kind, str) or kind not in _KINDS or not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a network out of {', '.join(_KINDS)} with its config, got {kind!r}")
    try:
        _check_config(kind, config)
        _check_depth(config, weights)
        # Without memory at first: what a config asks for is taken only if the weights have its shapes.
        with torch.device("meta"):
            planned = _KINDS[kind](**config)
    except TypeError as err:
        names = ", ".join(re.findall(r"'(\w{1,40})'", str(err)))
        raise CheckpointError(f"{path}: its config {config} does not make a {kind}: {names} is missing, or not a size of one") from None
    except CheckpointError as err:
        raise CheckpointError(f"{path}: its config {config} does not make a {kind}: {err}") from None
    check_fit(planned, weights, Path(path))
    network = _KINDS[kind](**config)
    load_strictly(network, weights, Path(path))
    return TrainedFile(network, record)


def _check_depth(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Raise CheckpointError for far more layers than there are weights of: even without memory, hundreds of them take seconds to make.

    A few too many or too few :func:`check_fit` tells with their names.
    """
    name, blocks = ("layers", "gconv_layers") if "layers" in config else ("depth", "STEblocks")
    found = layers_of(weights, blocks)
    if config[name] > found + MOST_LAYERS_MORE:
        raise CheckpointError(f"it says {name} = {config[name]}, and there are the weights of {found}")


def _check_config(kind: str, config: dict[str, Any]) -> None:
    """Raise CheckpointError for sizes that no network has, TypeError for ones that are missing or unknown."""
    if any(type(value) is not int for value in config.values()):
        raise CheckpointError("expected sizes as whole numbers")
    if kind in ("video encoder", "causal video encoder"):
        sizes = {**config}
        mlp_width = sizes.pop("mlp_width", 0)
        if not 1 <= mlp_width <= 4 * MAX_WIDTH:
            raise CheckpointError(f"expected mlp_width within 1..{4 * MAX_WIDTH}, got {mlp_width}")
        if kind == "video encoder":
            VideoConfig(**sizes, mirror_average=False)
        else:
            CausalConfig(**sizes)
    else:
        GraphNetworkConfig(**config)
