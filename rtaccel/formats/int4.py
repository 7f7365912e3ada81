"""int4 weights with a scale per group of neighboring k: weight[n, k] ~ q[n, k] * scale[n, k // group_size].

q is in -8..7. A scale is a float32 number that bfloat16 represents, of either sign: a group whose largest number is
positive takes a negative one, and so uses the step -8 too. The last group is shorter where group_size does not divide K.

A state dict stores `weight` uint8 [N, (K + 1) // 2], two numbers a byte, q + 8 each, the even k in the low four bits (and 8
in the last high ones where K is odd), and `group_scale` float32 [N, groups].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import check_group_size
from rtaccel.formats.int8 import require_finite

CLIPS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 8 / 7)
"""Tried for each group and each sign: the scale is clip * max |w| / 8. Below 1 the largest numbers are clipped; 8/7 covers
both signs of the largest alike."""

DTYPE = torch.uint8
"""Of a packed weight."""

ZEROS = 0x88
"""A byte of two zeros."""

_CHUNK = 1 << 20
"""Numbers searched at a time, so that the search needs little memory beside the weight."""


def row_bytes(k: int) -> int:
    """Bytes of a row of k numbers."""
    return (k + 1) // 2


def group_count(k: int, group_size: int) -> int:
    return -(-k // group_size)


def quantize_weight(weight: Tensor, group_size: int = 32, op: str = "linear") -> tuple[Tensor, Tensor]:
    """Packed weight uint8 [N, (K + 1) // 2] and group_scale float32 [N, groups] of a float weight [N, K].

    Each group takes, of the clips above with either sign, the scale with the least squared error of its numbers, and then
    the least-squares scale of the numbers found, if that is better still; all after rounding the scale to bfloat16.
    A group of zeros gets scale 1. Raises FormatError where a weight is not finite or a group_size does not fit.
    """
    check_group_size(op, group_size)
    weight = weight.detach().float()
    require_finite(weight, op, "weight")
    n, k = weight.shape
    groups = group_count(k, group_size)
    padded = torch.nn.functional.pad(weight, (0, groups * group_size - k)).reshape(n * groups, group_size)
    found = [_search(part) for part in _chunks(padded, group_size)]
    q = torch.cat([q for q, _ in found]) if found else padded.to(torch.int8)
    scale = torch.cat([s for _, s in found]) if found else padded.new_ones(0)
    return pack(q.view(n, groups * group_size)[:, :k]), scale.view(n, groups)


def stage_weights(weight: Tensor, scheme: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """See rtaccel.formats.weights."""
    packed, scale = quantize_weight(weight, scheme.group_size)
    return {"weight": packed, "group_scale": scale}, {"group_size": scheme.group_size}


def _chunks(groups: Tensor, group_size: int) -> Iterator[Tensor]:
    step = max(1, _CHUNK // group_size)
    return (groups[i : i + step] for i in range(0, groups.shape[0], step))


def _round_scale(scale: Tensor) -> Tensor:
    return scale.bfloat16().float()


def _try(groups: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """q as float32 [.., groups, group_size] with scales [.., groups], and the squared error of each group."""
    scales = scales[..., None]
    q = (groups / scales).round_().clamp_(-8, 7)
    return q, torch.addcmul(groups, q, scales, value=-1).square_().sum(-1)


def _search(groups: Tensor) -> tuple[Tensor, Tensor]:
    """int8 q [groups, group_size] and float32 scale [groups]."""
    peak = groups.abs().amax(1)
    empty = peak < 2.0**-100
    peak = torch.where(empty, torch.ones_like(peak), peak)
    # Between a half and one by a power of two, which is exact: the squares then neither vanish nor overflow.
    exponent = torch.frexp(peak).exponent
    groups, peak = torch.ldexp(groups, -exponent[:, None]), torch.ldexp(peak, -exponent)
    best = _round_scale(peak / 8)
    q, least = _try(groups, best)
    clips = torch.tensor([sign * clip / 8 for clip in CLIPS for sign in (1, -1)], device=peak.device)
    for scales in _round_scale(peak * clips[:, None]).split(max(1, _CHUNK // max(1, groups.numel()))):
        q, best, least = _better(groups, scales, q, best, least)
    for _ in range(2):
        fitted = (groups * q).sum(1) / q.square().sum(1).clamp_min(1.0)
        fitted = _round_scale(torch.where(fitted.abs() < best.abs() / 2, best, fitted))
        q, best, least = _better(groups, fitted[None], q, best, least)
    return q.to(torch.int8), torch.where(empty, torch.ones_like(best), torch.ldexp(best, exponent))


def _better(groups: Tensor, scales: Tensor, q: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of some scales [tried, groups], the first with the least error of a group, where that is less than it was."""
    tried, errors = _try(groups, scales)
    if len(scales) > 1:
        at = errors.argmin(0)
        group = torch.arange(len(at), device=at.device)
        tried, errors, scales = tried[at, group], errors[at, group], scales[at, group]
    else:
        tried, errors, scales = tried[0], errors[0], scales[0]
    wins = errors < least
    return (
        torch.where(wins[:, None], tried, q),
        torch.where(wins, scales, best),
        torch.where(wins, errors, least),
    )


def pack(q: Tensor) -> Tensor:
    """uint8 [N, (K + 1) // 2] of int8 q [N, K] in -8..7."""
    n, k = q.shape
    shifted = torch.full((n, k + k % 2), 8, dtype=DTYPE, device=q.device)
    shifted[:, :k] = (q + 8).to(DTYPE)
    return (shifted[:, 0::2] | (shifted[:, 1::2] << 4)).contiguous()


def unpack(packed: Tensor, k: int) -> Tensor:
    """int8 q [N, k] in -8..7 of packed uint8 [N, (k + 1) // 2]."""
    both = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
    return both[:, :k].to(torch.int8) - 8


def dequantize(packed: Tensor, group_scale: Tensor, k: int, group_size: int) -> Tensor:
    """float64 [N, k]: the numbers that every backend computes with, exact."""
    scale = group_scale.double().repeat_interleave(group_size, dim=1)[:, :k]
    return unpack(packed, k).double() * scale


def require_scales(op: str, name: str, scale: Tensor) -> None:
    """Raises FormatError for scales that this format cannot mean."""
    step = "Quantize the weight with rtaccel.formats.int4."
    if not torch.isfinite(scale).all():
        raise FormatError(op, f"{name} with a NaN or infinity", "finite numbers", step)
    if not (scale.abs() >= 2.0**-120).all():
        raise FormatError(op, f"{name} with {scale.abs().min().item():.3g}", "scales of at least 2^-120", step)
    if not torch.equal(scale.bfloat16().float(), scale):
        raise FormatError(op, f"{name} that bfloat16 does not represent", "float32 numbers rounded to bfloat16", step)
