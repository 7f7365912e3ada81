"""The single calls that scripted attention makes in eval mode, as the operators that they stand for, which have kernels here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

_PADDING = 1
"""The kind of mask that is [batch, time]; others are [time, time] and [batch, heads, time, time]."""


def native_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_head: int, qkv_weight: Tensor, qkv_bias: Any,
    proj_weight: Tensor, proj_bias: Any, mask: Any = None, need_weights: bool = True,
    average_attn_weights: bool = True, mask_type: Any = None,
) -> Any:  # fmt: skip
    """`aten::_native_multi_head_attention`: [batch, time, features] to the same, and the weights or nothing."""
    mask = None if mask is None else mask.bool()
    if mask is not None and mask.dim() == 4:
        mask = mask.expand(query.shape[0], num_head, -1, -1).flatten(0, 1)
    given: dict[int, Tensor] = {}
    sides = [given.setdefault(id(x), x.transpose(0, 1)) for x in (query, key, value)]  # one tensor stays one
    result, weights = functional.multi_head_attention_forward(
        sides[0], sides[1], sides[2], embed_dim, num_head, qkv_weight, qkv_bias, None, None, False, 0.0, proj_weight, proj_bias,
        training=False, key_padding_mask=mask if mask_type == _PADDING else None, need_weights=need_weights,
        attn_mask=None if mask_type == _PADDING else mask, average_attn_weights=average_attn_weights,
    )  # fmt: skip
    return result.transpose(0, 1), query.new_empty(0) if weights is None else weights


def encoder_layer(
    src: Tensor, embed_dim: int, num_heads: int, qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor,
    use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Tensor, norm_bias_1: Tensor, norm_weight_2: Tensor,
    norm_bias_2: Tensor, ffn_weight_1: Tensor, ffn_bias_1: Tensor, ffn_weight_2: Tensor, ffn_bias_2: Tensor, mask: Any = None,
    mask_type: Any = None,
) -> Tensor:  # fmt: skip
    """`aten::_transformer_encoder_layer_fwd`: attention, then two linear layers, each beside what it changes and normed."""

    def attend(x: Tensor) -> Tensor:
        own = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        result: Tensor = native_attention(x, x, x, embed_dim, num_heads, *own, mask, False, True, mask_type)[0]
        return result

    def feed(x: Tensor) -> Tensor:
        x = functional.linear(x, ffn_weight_1, ffn_bias_1)
        return functional.linear(functional.gelu(x) if use_gelu else functional.relu(x), ffn_weight_2, ffn_bias_2)

    def norm_1(x: Tensor) -> Tensor:
        return functional.layer_norm(x, [embed_dim], norm_weight_1, norm_bias_1, eps)

    def norm_2(x: Tensor) -> Tensor:
        return functional.layer_norm(x, [embed_dim], norm_weight_2, norm_bias_2, eps)

    if norm_first:
        src = src + attend(norm_1(src))
        return src + feed(norm_2(src))
    src = norm_1(src + attend(src))
    return norm_2(src + feed(src))


ATTENTION: dict[str, Callable[..., Any]] = {
    "aten::_native_multi_head_attention": native_attention,
    "aten::_transformer_encoder_layer_fwd": encoder_layer,
}
"""By name."""
