"""float8 (e4m3: 3 bits of fraction, largest number 448): weights with a scale per output channel, rows with one of their own.

weight ~ float32(w8) * scale[n], scale[n] = max_k |weight[n, k]| / 448.
x ~ float32(x8) * row_scale[m], x8 = e4m3(x * (448 / max_k |x|)), row_scale = max_k |x| / 448; rounded to nearest, ties to
even. A row below 2^-100 everywhere becomes 0 with scale 1; one that holds a NaN or an infinity gets scale NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.formats.int8 import TINY, require_finite

LARGEST = 448.0
DTYPE = torch.float8_e4m3fn


def quantize_weight(weight: Tensor, op: str = "linear") -> tuple[Tensor, Tensor]:
    """float8_e4m3fn [N, K] and float32 scale [N]. Raises FormatError where a weight is not finite."""
    weight = weight.detach().float()
    require_finite(weight, op, "weight")
    peak = weight.abs().amax(1) if weight.shape[1] else weight.new_zeros(weight.shape[0])
    scale = torch.where(peak < TINY, torch.ones_like(peak), peak / LARGEST)
    return (weight / scale[:, None]).clamp(-LARGEST, LARGEST).to(DTYPE), scale


def stage_weights(weight: Tensor, scheme: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """See rtaccel.formats.weights. Rows of x become float8 in the same kernel."""
    scaled = dict(zip(("weight", "weight_scale"), quantize_weight(weight)))
    return scaled, {"input_format": "float8", "residual": False}


def dynamic(x: Tensor) -> tuple[Tensor, Tensor]:
    """float8 rows [M, K] and row_scale float32 [M, 1] of float32 x [M, K]."""
    peak = x.abs().amax(-1, keepdim=True) if x.shape[1] else x.new_zeros(x.shape[0], 1)
    finite = torch.isfinite(x).all(-1, keepdim=True)
    keep = finite & (peak >= TINY)
    limit = torch.full_like(peak, LARGEST)
    safe = torch.where(keep, peak, torch.ones_like(peak))
    q = torch.where(keep, x * (limit / safe), torch.zeros_like(x)).to(DTYPE)
    scale = torch.where(keep, safe / limit, torch.ones_like(peak))
    return q, torch.where(finite, scale, torch.full_like(scale, float("nan")))
