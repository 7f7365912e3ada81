"""int8 weights, symmetric per output channel; int8 activations, one scale and zero point per tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.stage import QParams

TINY = 2.0**-100
"""A row that is smaller everywhere counts as zero: dividing by its scale could overflow."""


def quantize_weight(weight: Tensor, op: str = "linear") -> tuple[Tensor, Tensor]:
    """int8 weight [N, K] in -127..127 and scale [N]: weight ~ q * scale, scale[n] = max_k |weight[n, k]| / 127.

    -128 is left out, so that every q has a negative. A row of zeros gets scale 1, and stays exactly zero.
    Raises FormatError where a weight is not finite, naming the first.
    """
    weight = weight.detach().float()
    require_finite(weight, op, "weight")
    peak = weight.abs().amax(dim=1) if weight.shape[1] else weight.new_zeros(weight.shape[0])
    # A row below the smallest normal scale would divide to infinity; it is zero to any precision int8 has.
    scale = torch.where(peak < 2.0**-100, torch.ones_like(peak), peak / 127.0)
    q = torch.round(weight / scale[:, None]).clamp(-127, 127).to(torch.int8)
    return q, scale


def stage_weights(weight: Tensor, scheme: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """See rtaccel.formats.weights."""
    return dict(zip(("weight", "weight_scale"), quantize_weight(weight))), {}


def require_finite(tensor: Tensor, op: str, name: str) -> None:
    bad = ~torch.isfinite(tensor)
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise FormatError(
            op, f"{name}{list(index)} = {tensor[index].item()}", "finite numbers", "Repair or retrain the layer first."
        )


def quant_of_range(low: float, high: float) -> QParams:
    """Scale and zero point that cover low..high, with 0 exactly representable and all 256 steps in use.

    A range that holds only zeros gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    if not span > 2.0**-100:
        return QParams(1.0, 0)
    scale = float(torch.tensor(span / 255.0, dtype=torch.float32, device="cpu"))
    return QParams(scale, max(-128, min(127, round(-128 - low / scale))))


def inverse_scale(quant: QParams) -> float:
    """float32(1 / scale): what every backend multiplies by instead of dividing."""
    return float(1.0 / torch.tensor(quant.scale, dtype=torch.float32, device="cpu"))


def to_int8(x: Tensor, inverse: float, zero_point: int) -> Tensor:
    """clamp(rint(x * inverse) + zero_point, -128, 127) as int8; ties to even."""
    return (torch.round(x * inverse).clamp(-512, 512) + zero_point).clamp(-128, 127).to(torch.int8)


def quantize(x: Tensor, quant: QParams) -> Tensor:
    """q = clamp(rint(x / scale) + zero_point, -128, 127), as the kernels compute it."""
    return to_int8(x, inverse_scale(quant), quant.zero_point)


def dequantize(q: Tensor, quant: QParams) -> Tensor:
    return (q.float() - quant.zero_point) * quant.scale


def dynamic(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 q [M, K] and scale [M, 1] of float32 rows x [M, K], each with its own scale: contract of `quantize`."""
    peak = x.abs().amax(-1, keepdim=True) if x.shape[1] else x.new_zeros(x.shape[0], 1)
    finite = torch.isfinite(x).all(-1, keepdim=True)
    tiny = peak < TINY
    # Tensor by tensor, because torch takes a reciprocal first for 127.0 / t (and, on CUDA, for t / 127.0): two roundings.
    steps = torch.full_like(peak, 127.0)
    inverse = steps / torch.where(tiny | ~finite, torch.ones_like(peak), peak)
    q = torch.round(x * inverse).clamp(-127, 127)
    q = torch.where(finite & ~tiny, q, torch.zeros_like(q)).to(torch.int8)
    scale = torch.where(tiny, torch.ones_like(peak), peak / steps)
    return q, torch.where(finite, scale, torch.full_like(scale, float("nan")))
