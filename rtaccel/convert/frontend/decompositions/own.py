"""Decompositions where torch has none, or one that no operator computes: each a function of the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions import fake_quantized
from rtaccel.convert.frontend.decompositions.chosen import multinomial, whole_numbers, whole_numbers_like
from rtaccel.convert.frontend.decompositions.counting import MOST
from rtaccel.convert.frontend.decompositions.distances import cdist, index_put, quantile
from rtaccel.convert.frontend.decompositions.einsum import einsum, tensordot
from rtaccel.convert.frontend.decompositions.grouped import GROUPED
from rtaccel.convert.frontend.decompositions.images.computed_conv import convolution
from rtaccel.convert.frontend.decompositions.images.folds import fold
from rtaccel.convert.frontend.decompositions.images.pooled_places import POOLED
from rtaccel.convert.frontend.decompositions.joined import joined, shifted_out, stack
from rtaccel.convert.frontend.decompositions.lines.calls import CALLS
from rtaccel.convert.frontend.decompositions.rounding import divide, floor_divide, shifted_left, shifted_right
from rtaccel.convert.frontend.decompositions.scattered import (
    diag_embed,
    diagonal_scatter,
    max_unpool2d,
    scatter_reduce,
    select_scatter,
)
from rtaccel.convert.frontend.decompositions.special.calls import SPECIAL
from rtaccel.convert.frontend.decompositions.spectra import SPECTRA
from rtaccel.convert.frontend.decompositions.statistics import STATISTICS
from rtaccel.convert.frontend.decompositions.systems import SYSTEMS
from rtaccel.convert.frontend.decompositions.truths import TRUTHS
from rtaccel.convert.frontend.decompositions.unrolled import UNROLLED


def _variance(x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Tensor:
    dims = list(range(x.dim())) if not dim else [d % x.dim() for d in dim]
    count = 1
    for d in dims:
        count *= x.shape[d]
    off = x - aten.mean.dim(x, dims, True)
    total = aten.sum.dim_IntList(off * off, dims, keepdim)
    return total / max(count - (1 if correction is None else correction), 0)


def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, enabled: bool = True
) -> Tensor:
    """As torch computes it: y = x * scale + shift, by channel; the variance is a mean of squares of what is off the mean."""
    samples, channels = x.shape[:2]
    each, by_channel = channels // groups, [1, -1, *[1] * (x.dim() - 2)]
    if x.dim() == 2 and each > 1:  # rows alone: a LayerNorm of each group
        y = torch.nn.functional.layer_norm(x.reshape(samples, groups, each), (each,), eps=eps).reshape(x.shape)
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    def of_channels(t: Tensor) -> Tensor:
        return t.expand(samples, groups, each).reshape(samples, channels, *[1] * (x.dim() - 2))

    grouped = x.reshape(samples, groups, -1)
    mean = aten.mean.dim(grouped, [-1], True)
    off = grouped - mean
    # The product is a value with one number a channel, which stays at hand.
    one = torch.ones(channels).reshape(by_channel)
    middle = of_channels(mean) if each == 1 else of_channels(mean) * one
    variance = of_channels(aten.mean.dim(off * off, [-1], True))
    scale = aten.rsqrt(variance + eps) * (one if weight is None else weight.reshape(by_channel))
    shift = -middle * scale
    return x * scale + (shift if bias is None else shift + bias.reshape(by_channel))


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, of_input: bool, momentum: float, eps: float, enabled: bool
) -> Tensor:
    if of_input:
        return _group_norm(x, x.shape[1], weight, bias, eps)
    by_channel = [1, -1, *[1] * (x.dim() - 2)]
    y = (x - mean.reshape(by_channel)) * torch.rsqrt(var.reshape(by_channel) + eps)
    y = y if weight is None else y * weight.reshape(by_channel)
    return y if bias is None else y + bias.reshape(by_channel)


def _cosine(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    def size(x: Tensor) -> Tensor:
        return aten.sum.dim_IntList(x * x, [dim]).sqrt().clamp_min(eps)

    return aten.sum.dim_IntList(a * b, [dim]) / (size(a) * size(b))


def _extreme(reduce: Callable[..., Tensor], index: Callable[..., Tensor]) -> Callable[..., Any]:
    return lambda x, dim, keepdim=False: (reduce(x, [dim], keepdim), index(x, dim, keepdim))


def _smallest(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = aten.topk.default(x, k, dim, False, True)
    if keepdim:
        return values.narrow(dim, k - 1, 1), indices.narrow(dim, k - 1, 1)
    return values.select(dim, k - 1), indices.select(dim, k - 1)


def _median(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two in the middle; a NaN where there is one."""
    values, indices = _smallest(x, (x.shape[dim] - 1) // 2 + 1, dim, keepdim)
    nan = aten.any.dim(torch.isnan(x), dim, keepdim)
    first = aten.argmax.default(x, dim, keepdim)
    return torch.where(nan, float("nan"), values), torch.where(nan, first, indices)


def _searched(
    boundaries: Tensor, x: Tensor, *, out_int32: bool = False, right: bool = False, side: Any = None, sorter: Any = None
) -> Tensor:
    if sorter is not None:
        raise NotImplementedError
    right = right if side is None else side == "right"
    if boundaries.dim() == 1:
        return _bucketize(x, boundaries, out_int32=out_int32, right=right)
    # Each row of x has boundaries of its own. Computed ones may end in a NaN, which a search reaches behind all others alone.
    each, x = boundaries.unsqueeze(-2), x[..., None]
    beyond, below = (each > x, each <= x) if right else (each >= x, each < x)
    reached = _counted(~beyond)
    found = torch.where(reached == each.shape[-1], reached, _counted(below))
    return found.to(torch.int32 if out_int32 else torch.int64)


def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many boundaries are below; a NaN is above all of them."""
    beyond = boundaries > x[..., None] if right else boundaries >= x[..., None]
    return _counted(~beyond).to(torch.int32 if out_int32 else torch.int64)


def _counted(truths: Tensor) -> Tensor:
    if truths.shape[-1] > MOST:
        raise NotImplementedError
    return aten.sum.dim_IntList(truths.float(), [-1])


def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """a [..., I], b [..., J], weight [K, I, J]: one product with all rows of the weight, then a sum over J."""
    outputs, left, right = weight.shape
    rows = aten.linear.default(a, weight.permute(0, 2, 1).reshape(outputs * right, left))
    y = aten.sum.dim_IntList(rows.reshape(*a.shape[:-1], outputs, right) * b.unsqueeze(-2), [-1])
    return y if bias is None else y + bias


def _close(a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    off = (a - b).abs()
    found = (a == b) | (torch.isfinite(off) & (off <= atol + (b * rtol).abs()))
    return found | (torch.isnan(a) & torch.isnan(b)) if equal_nan else found


def _no_nan(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The other one where one of two is NaN."""

    def apply(a: Tensor, b: Tensor) -> Tensor:
        made = torch.result_type(a, b)
        a, b = a.to(made), b.to(made)
        if not made.is_floating_point:
            return call(a, b)
        return torch.where(torch.isnan(a), b, torch.where(torch.isnan(b), a, call(a, b)))

    return apply


def _dtype_of(*numbers: bool | int | float) -> torch.dtype:
    kinds = {type(n) for n in numbers}
    return torch.bool if kinds == {bool} else torch.float32 if float in kinds else torch.int64


def _digamma(x: Tensor) -> Tensor:
    """The derivative of lgamma: from x on in steps of 1 until the asymptotic series is exact; by reflection below 0."""
    positive = torch.where(x < 0, 1.0 - x, x)
    total = 0.0 - 1.0 / positive
    for k in range(1, 6):
        total = total - 1.0 / (positive + float(k))
    y = positive + 6.0
    square = 1.0 / (y * y)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    total = total + y.log() - 0.5 / y - series
    turned = x - torch.round(x)  # tan has this period, and few digits far from 0
    reflected = torch.where(turned == 0, float("nan"), total - torch.pi / torch.tan(torch.pi * turned))
    return torch.where(x < 0, reflected, total)


def _rrelu(
    x: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    if training:
        raise NotImplementedError
    return aten.leaky_relu.default(x, (lower + upper) / 2)


def _nanmean(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    dims = list(range(x.dim())) if dim is None else dim
    known = torch.where(torch.isnan(x), 0.0, 1.0)
    total = aten.sum.dim_IntList(torch.where(torch.isnan(x), 0.0, x), dims, keepdim, dtype=dtype)
    return total / aten.sum.dim_IntList(known, dims, keepdim)


OWN: dict[Any, Callable[..., Any]] = {
    aten.max.dim: _extreme(aten.amax.default, aten.argmax.default),
    aten.min.dim: _extreme(aten.amin.default, aten.argmin.default),
    aten.var_mean.correction: lambda x, dim=None, *, correction=None, keepdim=False: (
        _variance(x, dim, correction, keepdim),
        aten.mean.dim(x, dim if dim else list(range(x.dim())), keepdim),
    ),
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    **GROUPED,
    **UNROLLED,
    **SYSTEMS,
    **SPECTRA,
    aten.stack.default: stack,
    aten.cat.default: joined,
    aten.constant_pad_nd.default: shifted_out,
    aten.pad.default: shifted_out,
    **TRUTHS,
    **STATISTICS,
    **CALLS,
    **SPECIAL,
    aten.einsum.default: einsum,
    aten.tensordot.default: tensordot,
    aten.diagonal_scatter.default: diagonal_scatter,
    aten.diag_embed.default: diag_embed,
    aten.max_unpool2d.default: max_unpool2d,
    **POOLED,
    aten.signbit.default: lambda x: torch.where(x == 0, 1 / x, x) < 0,
    aten.multinomial.default: multinomial,
    aten.randint.default: lambda high, size, **how: whole_numbers(0, high, size, **how),
    aten.randint.low: whole_numbers,
    aten.randint_like.default: lambda x, high, **how: whole_numbers_like(x, 0, high, **how),
    aten.randint_like.low_dtype: whole_numbers_like,
    aten.cdist.default: cdist,
    aten._neg_view.default: lambda x: -x,
    aten._cdist_forward.default: cdist,
    aten.quantile.default: quantile,
    aten.quantile.scalar: quantile,
    aten.index_put.default: index_put,
    aten.col2im.default: fold,
    aten.conv1d.default: convolution,
    aten.conv2d.default: convolution,
    aten.scatter_reduce.two: scatter_reduce,
    aten.select_scatter.default: select_scatter,
    aten.fake_quantize_per_tensor_affine.default: fake_quantized.per_tensor,
    aten.fake_quantize_per_tensor_affine.tensor_qparams: fake_quantized.per_tensor_of_tensors,
    aten.fake_quantize_per_channel_affine.default: fake_quantized.per_channel,
    aten.digamma.default: _digamma,
    aten.where.Scalar: lambda condition, yes, no: torch.where(
        condition, torch.full_like(condition, yes, dtype=_dtype_of(yes, no)), no
    ),
    aten.rrelu.default: _rrelu,
    aten.nanmean.default: _nanmean,
    aten.copy.default: lambda x, source, non_blocking=False: aten.clone.default(source.to(x.dtype).expand(x.shape)),
    aten.__rshift__.Scalar: lambda x, bits: torch.div(x, 2**bits, rounding_mode="floor"),
    aten.__lshift__.Scalar: lambda x, bits: x * 2**bits,
    aten.bitwise_right_shift.Tensor_Scalar: lambda x, bits: torch.div(x, 2**bits, rounding_mode="floor"),
    aten.bitwise_left_shift.Tensor_Scalar: lambda x, bits: x * 2**bits,
    **dict.fromkeys((aten.__rshift__.Tensor, aten.bitwise_right_shift.Tensor), shifted_right),
    **dict.fromkeys((aten.__lshift__.Tensor, aten.bitwise_left_shift.Tensor), shifted_left),
    aten.floor_divide.default: floor_divide,
    aten.floor_divide.Scalar: floor_divide,
    aten.div.Tensor_mode: divide,
    aten.div.Scalar_mode: divide,
    aten.bilinear.default: _bilinear,
    aten.isclose.default: _close,
    aten.fmax.default: _no_nan(aten.maximum.default),
    aten.fmin.default: _no_nan(aten.minimum.default),
    aten.nansum.default: lambda x, dim=None, keepdim=False, *, dtype=None: aten.sum.dim_IntList(
        torch.where(torch.isnan(x), 0.0, x), dim, keepdim, dtype=dtype
    ),
    aten.round.decimals: lambda x, *, decimals: torch.round(x * 10.0**decimals) / 10.0**decimals,
    aten.kthvalue.default: _smallest,
    aten.bucketize.Tensor: _bucketize,
    aten.searchsorted.Tensor: _searched,
    aten.median.dim: _median,
    aten.cosine_similarity.default: _cosine,
    aten.var.default: lambda x, unbiased=True: _variance(x, None, int(unbiased)),
    aten.std_mean.correction: lambda x, dim=None, *, correction=None, keepdim=False: (
        _variance(x, dim, correction, keepdim).sqrt(),
        aten.mean.dim(x, dim if dim else list(range(x.dim())), keepdim),
    ),
    aten.var_mean.dim: lambda x, dim, unbiased=True, keepdim=False: (
        _variance(x, dim, int(unbiased), keepdim),
        aten.mean.dim(x, dim if dim else list(range(x.dim())), keepdim),
    ),
    aten.var.dim: lambda x, dim, unbiased=True, keepdim=False: _variance(x, dim, int(unbiased), keepdim),
    aten.std.dim: lambda x, dim, unbiased=True, keepdim=False: _variance(x, dim, int(unbiased), keepdim).sqrt(),
    aten.var.correction: lambda x, dim=None, *, correction=None, keepdim=False: _variance(x, dim, correction, keepdim),
    aten.std.correction: lambda x, dim=None, *, correction=None, keepdim=False: _variance(
        x, dim, correction, keepdim
    ).sqrt(),
}
