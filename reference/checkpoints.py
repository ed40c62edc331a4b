"""Reads and writes checkpoints in the released formats, strictly.

Denoiser and frame encoder: a list ``[state_dict, optimiser, epoch, step, ema]`` whose keys begin with ``module.``; the
raw weights (entry 0) are the ones to load. MixSTE: a dict with ``model_pos``. A bare state dict is read too. Files are
opened with ``weights_only=True``: nothing in them is executed.

Networks of our own training, encoders of 6 channels and conditioned denoisers, fit into these forms too: their tensors
tell. What a conditioned denoiser was trained with (schedule, start, what it predicts) does not: only safetensors hold it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diffpose_edge.atomic import atomic_file
from diffpose_edge.config import GraphNetworkConfig, VideoConfig
from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.errors import CheckpointError, told_by
from diffpose_edge.person import CHANNELS
from diffpose_edge.reading import open_file
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE

StateDict = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

# A hundred times the released ones with their optimisers.
MOST_BYTES = 4 << 30
# What goes into the networks for each joint, of which there are two kinds of encoders, and what comes out.
DENOISER = ((5,), 5)
FRAME_ENCODER = ((2, CHANNELS), 3)
# Of a layer of any of these networks, at the least.
LEAST_TENSORS = 8


def state_dict_from_file(path: str | Path) -> StateDict:
    """Return the weights of a checkpoint with any ``module.`` prefix removed.

    Raises CheckpointError when the file is missing, truncated, not a PyTorch checkpoint, needs code to be executed, or
    has none of the released forms.
    """
    path = Path(path)
    try:
        check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; check the path") from None
    except IsADirectoryError:
        raise CheckpointError(f"expected a checkpoint file, got the folder {path}") from None
    except CheckpointError:
        raise
    except pickle.UnpicklingError as err:
        raise CheckpointError(
            f"{path} is not a checkpoint of plain tensors (it is damaged, another kind of file, or asks to run code, "
            f"which is refused). Save its state dict with torch.save and use that. PyTorch says: {told_by(err)}"
        ) from None
    except Exception as err:
        # On bytes that are no checkpoint PyTorch's reader fails in whatever way they lead it to: IndexError, struct.error, …
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint (size {_size(path)} bytes): is the download complete? "
            f"PyTorch says: {told_by(err)}"
        ) from err
    return _weights_of(content, path)


def check_stored(path: Path) -> None:
    """Raise CheckpointError for a file that would take more memory than it has bytes: PyTorch packs nothing, and unpacks what is packed.

    Raises OSError for what is no file, or larger than ``MOST_BYTES``.
    """
    with open_file(path, MOST_BYTES) as file:
        if not zipfile.is_zipfile(file):  # the form of PyTorch before 1.6
            return
        size = file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > size:
        raise CheckpointError(f"{path} has {size} bytes and would unpack to {unpacked}: PyTorch packs nothing; refused")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _weights_of(content: Any, path: Path) -> StateDict:
    found = content
    if isinstance(content, list | tuple) and content and isinstance(content[0], Mapping):
        found = content[0]
    elif isinstance(content, Mapping) and isinstance(content.get("model_pos"), Mapping):
        found = content["model_pos"]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        kind = type(content).__name__
        inside = f" with keys {sorted(map(str, content))[:6]}" if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{path} holds a {kind}{inside}; expected the released form [state_dict, ...], {{'model_pos': state_dict}}, "
            f"or a state dict of tensors"
        )
    odd = [str(k) for k, v in found.items() if v.layout != torch.strided or v.device.type != "cpu" or v.is_quantized]
    if odd:
        raise CheckpointError(
            f"{path} holds tensors that are sparse, quantised or without values: {', '.join(odd[:5])}; expected plain ones"
        )
    claimed = sum(v.numel() * v.element_size() for v in found.values())
    if claimed > _size(path):
        raise CheckpointError(
            f"{path} has {_size(path)} bytes, and its tensors claim {claimed}: some repeat their values, as expanded ones do; "
            f"expected plain ones"
        )
    weights = {str(k).removeprefix("module."): v for k, v in found.items()}
    if len(weights) < len(found):
        twice = [str(k) for k in found if f"module.{k}" in found]
        raise CheckpointError(f"{path} holds tensors both with and without the prefix 'module.': {', '.join(twice[:5])}; which is meant?")
    return weights


def _require(weights: Mapping[str, Tensor], keys: tuple[str, ...], path: Path, what: str) -> None:
    missing = [k for k in keys if k not in weights]
    if missing:
        raise CheckpointError(
            f"{path} is not a {what}: it has no {', '.join(missing)}; it has {len(weights)} tensors, such as "
            f"{', '.join(sorted(weights)[:4])}. Is it the other checkpoint of the pair?"
        )


def layers_of(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbered parts ``prefix.0``, ``prefix.1``, … the weights are of.

    Raises CheckpointError where most of their tensors are missing: a network takes time and memory to make, and a few bytes name hundreds
    of layers.
    """
    count = len({k.split(".")[1] for k in weights if k.startswith(prefix + ".")})
    if len(weights) < LEAST_TENSORS * count:
        raise CheckpointError(f"it names {count} layers and has {len(weights)} tensors: most of them are missing. Is the file complete?")
    return count


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name the checkpoint in errors about the size that was read from it."""
    try:
        yield
    except CheckpointError as err:
        raise CheckpointError(f"{path}: {err}") from None


def graph_config_of(weights: Mapping[str, Tensor], heads: int, ends: tuple[tuple[int, ...], int], path: Path) -> GraphNetworkConfig:
    """Infer the size of a denoiser (``ends`` DENOISER) or a frame encoder (FRAME_ENCODER) from its tensors.

    ``ends`` are the channels that its input may have, and those of its output.
    """
    what = "denoiser" if ends == DENOISER else "frame context encoder"
    _require(weights, ("gconv_input.weight", "gconv_output.weight"), path, what)
    first, last = weights["gconv_input.weight"].shape, weights["gconv_output.weight"].shape
    if len(first) != 4 or len(last) != 4 or first[2] not in ends[0] or last[3] != ends[1]:
        raise CheckpointError(
            f"{path} is not a {what}: expected gconv_input.weight (3, 1, {' or '.join(map(str, ends[0]))}, C) and gconv_output.weight "
            f"(3, 1, C, {ends[1]}), got {tuple(first)} and {tuple(last)}. Is it the other checkpoint of the pair?"
        )
    sizes = {"condition": _condition_of(weights, path)} if ends == DENOISER else {"channels": int(first[2])}
    with _about(path):
        return GraphNetworkConfig(hidden=int(first[3]), layers=layers_of(weights, "gconv_layers"), heads=heads, **sizes)


def _condition_of(weights: Mapping[str, Tensor], path: Path) -> int:
    """Return the width of the feature f_ST that a denoiser is conditioned on, 0 for none."""
    if "condition.weight" not in weights:
        return 0
    shape = tuple(weights["condition.weight"].shape)
    if len(shape) != 2 or shape[1] <= START_CHANNELS:
        raise CheckpointError(f"{path}: expected condition.weight (C, C' + {START_CHANNELS}) with C' at least 1, got {shape}")
    return int(shape[1]) - START_CHANNELS


def video_config_of(weights: Mapping[str, Tensor], heads: int, mirror_average: bool, path: Path) -> VideoConfig:
    """Infer the size of a MixSTE from its tensors."""
    embedding = "Spatial_patch_to_embedding.weight"
    needed = {"Temporal_pos_embed": 3, "Spatial_pos_embed": 3, "STEblocks.0.mlp.fc1.weight": 2, embedding: 2}
    _require(weights, tuple(needed), path, "MixSTE video encoder")
    for key, rank in needed.items():
        if weights[key].dim() != rank:
            raise CheckpointError(f"{path}: expected {key} with {rank} axes, got shape {tuple(weights[key].shape)}")
    shape = weights["Temporal_pos_embed"].shape
    if shape[1] < 2:
        raise CheckpointError(f"{path}: expected a video encoder over at least 2 frames, got {shape[1]}")
    channels = int(weights[embedding].shape[1])
    if channels not in FRAME_ENCODER[0]:
        raise CheckpointError(f"{path}: expected {embedding} (C, 2 or {CHANNELS}), got {tuple(weights[embedding].shape)}")
    with _about(path):
        return VideoConfig(int(shape[1]), int(shape[2]), layers_of(weights, "STEblocks"), heads, mirror_average, channels)


def is_video(weights: Mapping[str, Tensor]) -> bool:
    """Tell a MixSTE's weights from those of a frame encoder."""
    return "Temporal_pos_embed" in weights


def check_fit(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError, naming the keys, when ``weights`` are not just those of ``network`` (which may be on "meta")."""
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in weights]
    foreign = [k for k in weights if k not in wanted]
    differing = [
        f"{k} {tuple(weights[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in weights and weights[k].shape != wanted[k].shape
    ]
    if missing or foreign or differing:
        parts = [
            f"{len(keys)} {label}: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}"
            for label, keys in (("keys missing", missing), ("unknown keys", foreign), ("shapes that differ", differing))
            if keys
        ]
        raise CheckpointError(f"{path} does not fit the {type(network).__name__}: {'; '.join(parts)}")


def load_strictly(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``weights`` into ``network`` (evaluation mode); raise CheckpointError naming every key that does not fit."""
    check_fit(network, weights, path)
    integer = [f"{k} ({v.dtype})" for k, v in weights.items() if not v.is_floating_point()]
    if integer:
        raise CheckpointError(f"{path} holds tensors that are not floating-point: {', '.join(integer[:5])}; expected float weights")
    unusable = [k for k, v in weights.items() if not bool(torch.isfinite(v.float()).all())]
    if unusable:
        raise CheckpointError(f"{path} holds values that are not finite float32 numbers in {', '.join(unusable[:5])}: training diverged?")
    network.load_state_dict(dict(weights), strict=True)
    network.eval().requires_grad_(False)


def _filled(make: Callable[[], Network], weights: Mapping[str, Tensor], path: Path) -> Network:
    """Return the network with these weights. Its memory is taken only if the weights have its shapes: names alone can ask for any depth."""
    with torch.device("meta"):
        planned = make()
    check_fit(planned, weights, path)
    network = make()
    load_strictly(network, weights, path)
    return network


def denoiser_from_file(path: str | Path, heads: int = 4) -> Denoiser:
    """Load a denoiser; width, depth and whether it is conditioned come from the tensors. Raises CheckpointError."""
    weights = state_dict_from_file(path)
    config = graph_config_of(weights, heads, DENOISER, Path(path))
    return _filled(lambda: Denoiser(config.hidden, config.layers, config.heads, condition=config.condition), weights, Path(path))


def frame_encoder_from_file(path: str | Path, heads: int = 4) -> FrameEncoder:
    """Load a frame context encoder; width, depth and channels come from the tensors. Raises CheckpointError."""
    weights = state_dict_from_file(path)
    config = graph_config_of(weights, heads, FRAME_ENCODER, Path(path))
    return _filled(lambda: FrameEncoder(config.hidden, config.layers, config.heads, config.channels), weights, Path(path))


def mixste_from_file(path: str | Path, heads: int = 8) -> MixSTE:
    """Load a MixSTE; frames, width, depth and channels come from the tensors. Raises CheckpointError."""
    weights = state_dict_from_file(path)
    config = video_config_of(weights, heads, True, Path(path))
    mlp_width = weights["STEblocks.0.mlp.fc1.weight"].shape[0]
    return _filled(lambda: MixSTE(config.frames, config.width, config.depth, config.heads, mlp_width, config.channels), weights, Path(path))


def save_released(network: Denoiser | FrameEncoder | MixSTE, path: str | Path) -> None:
    """Write a network's weights in the form in which the published checkpoints came. Atomic. Raises OutputError.

    The form has no place for the number of heads, nor for what a conditioned denoiser was trained with: see above.
    """
    weights = {f"module.{k}": v for k, v in network.state_dict().items()}
    content: Any = {"epoch": 0, "model_pos": weights} if isinstance(network, MixSTE) else [weights, {}, 0, 0, None]
    with atomic_file(path) as temporary:
        torch.save(content, temporary)
