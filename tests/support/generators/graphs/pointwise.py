"""Operators on single numbers, and on pairs of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.generators.graphs.program import Draw, Made

F = nn.functional

UNARY = (
    torch.relu,
    F.relu6,
    torch.tanh,
    torch.sigmoid,
    F.silu,
    F.gelu,
    F.elu,
    F.selu,
    F.celu,
    F.hardtanh,
    F.hardswish,
    F.hardsigmoid,
    F.softplus,
    F.mish,
    F.logsigmoid,
    F.softsign,
    F.tanhshrink,
    torch.square,
    torch.sin,
    torch.cos,
    torch.atan,
    torch.asinh,
    torch.erf,
    torch.abs,
    torch.neg,
    torch.sign,
    torch.floor,
    torch.ceil,
    torch.round,
    torch.trunc,
    torch.frac,
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: torch.exp(-x.abs()),
    lambda x: torch.log(x.abs() + 0.1),
    lambda x: torch.log1p(x.abs()),
    lambda x: torch.sqrt(x.abs() + 0.01),
    lambda x: torch.rsqrt(x.abs() + 0.1),
    lambda x: torch.reciprocal(x.abs() + 0.5),
    lambda x: torch.exp2(x.clamp(-4, 4)),
    lambda x: torch.expm1(x.clamp(-3, 3)),
    lambda x: torch.sinh(x.clamp(-3, 3)),
    lambda x: torch.cosh(x.clamp(-3, 3)),
    lambda x: torch.log2(x.square() + 1),
    lambda x: x.clamp(-0.5, 0.7),
    lambda x: x.clamp_min(0.1),
    lambda x: x.nan_to_num(),
    lambda x: 1 - x,
    lambda x: 2 / (x.abs() + 1),
    lambda x: (x > 0.25).to(x.dtype),
    lambda x: (x == 0).to(x.dtype) + x,
    lambda x: (~(x < 0)).to(x.dtype),
    lambda x: x.masked_fill(x > 1, 0.5),
    lambda x: torch.where(x < 0, x * 0.5, x),
    lambda x: torch.special.erfcx(x.clamp(-2, 20)),
    torch.special.log_ndtr,
    lambda x: torch.special.ndtri(torch.sigmoid(x) * 0.98 + 0.01),
    torch.special.i0e,
    torch.special.i1e,
    torch.special.bessel_j0,
    torch.special.bessel_j1,
    lambda x: torch.special.scaled_modified_bessel_k0(x.abs() + 0.1),
    lambda x: torch.special.scaled_modified_bessel_k1(x.abs() + 0.1),
    lambda x: torch.polygamma(1, x.abs() + 0.5),
    lambda x: torch.special.chebyshev_polynomial_t(x.clamp(-1, 1), 3),
    lambda x: (x * 3).to(torch.int32).to(x.dtype),
    lambda x: torch.logical_and(x > 0, x < 1).to(x.dtype),
    lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5], dtype=x.dtype)).to(x.dtype),
)
WITH_NUMBER = (
    lambda x, a: x + a,
    lambda x, a: x * a,
    lambda x, a: a - x,
    lambda x, a: x / a,
    lambda x, a: F.leaky_relu(x, abs(a) / 4),
    lambda x, a: F.elu(x, abs(a)),
    lambda x, a: F.threshold(x, a, 0.5),
    lambda x, a: F.softshrink(x, abs(a)),
    lambda x, a: F.hardshrink(x, abs(a)),
    lambda x, a: F.softplus(x, abs(a) + 0.5),
    lambda x, a: torch.remainder(x, abs(a)),
    lambda x, a: torch.fmod(x, a),
    lambda x, a: torch.pow(x.abs() + 0.1, a),
    lambda x, a: torch.floor_divide(x, a),
    lambda x, a: torch.maximum(x, torch.full_like(x, a)),
    lambda x, a: x.abs().pow(2) * a,
    lambda x, a: x.pow(3) * a,
)
PAIRS = (
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    torch.minimum,
    lambda a, b: a / (b.abs() + 0.5),
    lambda a, b: torch.atan2(a, b.abs() + 0.5),
    lambda a, b: torch.where(a > b, a, -b),
    lambda a, b: torch.lerp(a, b, 0.3),
    lambda a, b: torch.addcmul(a, a, b, value=0.5),
    lambda a, b: torch.addcdiv(a, b, a.square() + 1),
    torch.hypot,
    lambda a, b: torch.copysign(a, b),
    lambda a, b: torch.logaddexp(a.clamp(-20, 20), b.clamp(-20, 20)),
    lambda a, b: (a >= b).to(a.dtype) * b,
    lambda a, b: torch.logical_xor(a > 0, b > 0).to(a.dtype),
    lambda a, b: a.where(b > 0, b),
    lambda a, b: torch.pow(a.abs() + 0.2, b.clamp(-2, 2)),
    lambda a, b: torch.fmax(a, b),
    lambda a, b: a * torch.sigmoid(b),
)


def unary(draw: Draw, x: Tensor, other: Tensor) -> Made:
    function = draw.of(*UNARY)
    return Made(lambda a, b: function(a))


def with_number(draw: Draw, x: Tensor, other: Tensor) -> Made:
    function, number = draw.of(*WITH_NUMBER), draw.of(0.3, -0.7, 1.0, 1.7, 2.0, -2.5)
    return Made(lambda a, b: function(a, number))


def pair(draw: Draw, x: Tensor, other: Tensor) -> Made:
    """Of two values, broadcast where that goes, in either order."""
    function, turned = draw.of(*PAIRS), draw.of(True, False)
    return Made((lambda a, b: function(b, a)) if turned else lambda a, b: function(a, b))


def with_parameter(draw: Draw, x: Tensor, other: Tensor) -> Made:
    """A parameter of one dimension, of all, or of the last ones."""
    dim, shape = draw.dim(x), [1] * (x.dim() - 1)
    shape[dim - 1] = x.shape[dim]
    kind = draw.of("one", "all", "last")
    shape = list(x.shape[1:]) if kind == "all" else list(x.shape[dim:]) if kind == "last" else shape
    layer = nn.ParameterList([nn.Parameter(draw.tensor(*shape))])
    function = draw.of(torch.mul, torch.add, torch.sub, torch.maximum, lambda a, b: a / (b.abs() + 0.5))
    return Made(lambda m, a, b: function(a, m[0]), layer)


def prelu(draw: Draw, x: Tensor, other: Tensor) -> Made:
    layer = nn.PReLU(draw.of(1, x.shape[1]))
    return Made(lambda m, a, b: m(a), layer)


def gated(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, function = draw.dim(x), draw.of(torch.sigmoid, F.silu, torch.tanh, F.gelu)
    if x.shape[dim] % 2:
        raise ValueError("odd")
    return Made(draw.of(lambda a, b: F.glu(a, dim), lambda a, b: a.chunk(2, dim)[0] * function(a.chunk(2, dim)[1])))


KINDS = (unary, unary, unary, with_number, with_number, pair, pair, pair, with_parameter, prelu, gated)
