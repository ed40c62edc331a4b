"""Records the output of every layer of a network under the name that the exported graph gives it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MirrorAverage, MixSTE


def tapped_modules(network: Denoiser | FrameEncoder) -> dict[str, nn.Module]:
    """Return, in the order of execution, which module's output each tap is."""
    taps: dict[str, nn.Module] = {"conv_in": network.gconv_input}
    for i, (attention, graph) in enumerate(zip(network.atten_layers, network.gconv_layers, strict=True)):
        taps[f"layer{i}.norm1"] = attention.sublayer[0].norm
        taps[f"layer{i}.attention"] = attention.self_attn
        taps[f"layer{i}.norm2"] = attention.sublayer[1].norm
        taps[f"layer{i}.adjacency"] = attention.feed_forward
        taps[f"layer{i}.conv1"] = graph.gconv1
        taps[f"layer{i}.conv2"] = graph.gconv2
        taps[f"layer{i}.out"] = graph
    return taps


@torch.no_grad()
def outputs_with_taps(network: nn.Module, *inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Run ``network`` and return its output and every layer's output by name.

    Accepts a Denoiser, a FrameEncoder, a MixSTE, a CausalMixSTE or a MirrorAverage of a MixSTE.
    """
    if isinstance(network, MirrorAverage) and isinstance(network.encoder, MixSTE):
        both, taps = outputs_with_taps(network.encoder, network.with_mirrored(*inputs))
        return network.average(both), taps
    if isinstance(network, MixSTE | CausalMixSTE):
        blocks = network.blocks(*inputs)
        return network.head_of(blocks[-1]), dict(zip(block_names(network.depth), blocks, strict=True))
    assert isinstance(network, Denoiser | FrameEncoder)
    recorded: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            recorded[name] = output

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in tapped_modules(network).items()]
    try:
        output = network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, recorded


def block_names(depth: int) -> list[str]:
    """Return the names of a MixSTE's block outputs: spatial0, temporal0, spatial1, …"""
    return [f"{kind}{i}" for i in range(depth) for kind in ("spatial", "temporal")]
