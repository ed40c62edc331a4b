"""A causal MixSTE over one frame: what is traced to the context graph of a causal pair.

The past comes in as cached keys and values (:mod:`diffpose_edge.runtime.frame_caches`). The scores of the cached frames and the
score of the frame itself are joined, not the keys: the caches, by far the largest arrays, are read once and copied never.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffpose_edge.reference.causal_mixste import CausalBlock, CausalMixSTE
from diffpose_edge.skeleton import J

# Added to the score of a slot without a frame. Its exponential is zero, to the last bit, beside any score within thousands of the
# others; and it is a number that FP16 has.
NO_FRAME = -1e4


class CausalStep(nn.Module):
    """observation (P, 17, 6), ages (P, F - 1) and each layer's keys and values → xyz (P, 17, 3), feature (P, 17, C), the frame's own
    keys and values, and then the outputs of the blocks (P, 17, C), spatial and temporal in turn, but the last, which is the feature.
    """

    def __init__(self, encoder: CausalMixSTE):
        super().__init__()
        self.encoder = encoder
        for i, block in enumerate(encoder.TTEblocks):
            bias = block.attn.age_bias.detach()
            # One row for each age 0, 1, …, F; the last is for slots without a frame.
            self.register_buffer(f"age_table{i}", torch.cat([bias.T, torch.full((1, bias.shape[0]), NO_FRAME)]))

    def forward(self, observation: Tensor, ages: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        encoder = self.encoder
        at = ages.to(torch.int64).reshape(-1)
        x = encoder.Spatial_patch_to_embedding(observation) + encoder.Spatial_pos_embed
        blocks, own = [], []
        for i, (spatial, temporal) in enumerate(zip(encoder.STEblocks, encoder.TTEblocks, strict=True)):
            blocks.append(encoder.Spatial_norm(spatial(x)))
            x, key, value = self._temporal(temporal, blocks[-1], self.get_buffer(f"age_table{i}"), at, *caches[2 * i : 2 * i + 2])
            blocks.append(encoder.Temporal_norm(x))
            own += [key, value]
            x = blocks[-1]
        return (encoder.head(x), x, *own, *blocks[:-1])

    def _temporal(
        self, block: CausalBlock, x: Tensor, table: Tensor, at: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (P, 17, C), table (F + 1, heads), at (P (F - 1),), keys (P, 17, heads, d, F - 1), values (P, 17, heads, F - 1, d)."""
        attention = block.attn
        heads, slots = attention.heads, values.shape[-2]
        people, width = x.shape[0], x.shape[-1]
        each = width // heads
        query, key, value = attention.qkv(block.norm1(x)).view(people, J, 3, heads, each).unbind(2)
        query = query * each**-0.5
        bias = table.index_select(0, at).view(people, slots, heads).transpose(1, 2).reshape(people, 1, heads, 1, slots)
        past = torch.matmul(query.unsqueeze(-2), keys) + bias
        present = (query * key).sum(dim=-1, keepdim=True).unsqueeze(-2) + table[0].reshape(1, 1, heads, 1, 1)
        weights = torch.softmax(torch.cat([past, present], dim=-1), dim=-1)
        mixed = torch.matmul(weights[..., :slots], values) + weights[..., slots:] * value.unsqueeze(-2)
        x = x + attention.proj(mixed.reshape(people, J, width))
        return x + block.mlp(block.norm2(x)), key, value
