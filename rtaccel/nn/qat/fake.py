"""Fake quantization: numbers go through their stored form and back, and gradients go straight through the rounding.

Forward, each is what the kernels compute with, by the functions of rtaccel.formats. Backward, the rounding counts as the identity
(the straight-through estimator; Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013). What
a static range clips has no gradient, and the ends of the range have one of their own (Esser et al., "Learned Step Size
Quantization", 2020; Bhalgat et al., "LSQ+", 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from rtaccel.core.scheme import W4A8, W4A16, W8A8, W8A16, Scheme
from rtaccel.core.stage import QParams
from rtaccel.formats import int4, int8

STEPS = 255.0
"""From the smallest to the largest of 256 numbers."""

MIN_SPAN = 2.0**-100


def quant_of(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(scale float32 [], zero point float32 []) of the range low <= 0 <= high, both float32 []: rtaccel.formats.int8."""
    low, high = low.detach().double().clamp(max=0.0), high.detach().double().clamp(min=0.0)
    span = high - low
    scale = (span / STEPS).float()
    zero = (-128 - low / scale.double()).round().clamp(-128, 127).float()
    empty = span <= MIN_SPAN
    return torch.where(empty, torch.ones_like(scale), scale), torch.where(empty, torch.zeros_like(zero), zero)


def range_of(quant: QParams) -> tuple[float, float]:
    """The numbers that -128 and 127 stand for."""
    return (-128 - quant.zero_point) * quant.scale, (127 - quant.zero_point) * quant.scale


class _Static(Function):
    """x through int8 with one scale and zero point, from a range that learns.

    With s = (high - low) / 255 and q = rint(x / s) + z, d y / d s is q - z - x / s inside of the range; beyond an end, y is that
    end. The gradients of the ends are divided by the root of the numbers they are sums over, so that ranges and weights
    can have one learning rate.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        scale, zero = quant_of(low, high)
        scale, zero = scale.to(x.dtype), zero.to(x.dtype)
        q = torch.round(x * (1.0 / scale)).clamp(-512, 512) + zero
        kept = q.clamp(-128, 127)
        y = (kept - zero) * scale
        ctx.save_for_backward(x, y, q, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, q, scale = ctx.saved_tensors
        below, above = q < -128, q > 127
        inside = ~(below | above)
        low = high = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            part = 1.0 / max(1, x.numel()) ** 0.5
            step = (grad * torch.where(inside, (y - x) / (scale * STEPS), 0.0)).sum()
            low = ((grad * below).sum() - step) * part
            high = ((grad * above).sum() + step) * part
        return grad * inside, low, high


class _Straight(Function):
    """`made` forward, the identity for `x` backward, but where `kept` says that the number was clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Tensor, kept: Tensor | None) -> Tensor:
        ctx.save_for_backward(*(() if kept is None else (kept,)))
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (grad * ctx.saved_tensors[0] if ctx.saved_tensors else grad), None, None


def static(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x in the 256 steps from low to high."""
    return _Static.apply(x, low, high)


def dynamic(rows: Tensor) -> Tensor:
    """Each of the rows [M, K] in int8 with the scale of its largest number."""
    with torch.no_grad():
        q, scale = int8.dynamic(rows.detach())
        made = (q.to(rows.dtype) * scale).to(rows.dtype)
    return _Straight.apply(rows, made, None)


def hidden(h: Tensor, scale: Tensor) -> Tensor:
    """The h of a recurrent layer in int8, with one scale and without a zero point."""
    with torch.no_grad():
        step = scale.to(h.dtype)
        q = torch.round(h.detach() * (1.0 / step)).clamp(-512, 512)
        kept = (q >= -128) & (q <= 127)
    return _Straight.apply(h, q.clamp(-128, 127) * step, kept)


def weight(matrix: Tensor, scheme: Scheme, op: str) -> Tensor:
    """A weight [N, ...] as the scheme stores it. Raises FormatError where a number is not finite."""
    with torch.no_grad():
        flat = matrix.detach().reshape(matrix.shape[0], -1).float()
        if isinstance(scheme, (W4A8, W4A16)):
            packed, scales = int4.quantize_weight(flat, scheme.group_size, op)
            made = int4.dequantize(packed, scales, flat.shape[1], scheme.group_size)
        else:
            assert isinstance(scheme, (W8A8, W8A16))
            q, scale = int8.quantize_weight(flat, op)
            made = q.double() * scale.double()[:, None]
        made = made.to(matrix.dtype).reshape(matrix.shape)
    return _Straight.apply(matrix, made, None)
