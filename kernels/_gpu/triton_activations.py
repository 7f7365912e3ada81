"""The activation functions in Triton: `activate`, whose source is made from the table in kernels/_common/activations.

The functions are those of kernels/_common/activations/functions.h, operation by operation, so a result has the CPU's bits. One
that int8 holds behind them would else differ by one, where the two sides of a tie are a unit in the last place apart.

Triton compiles source, so the branches cannot be looked up in a dict: one `if` for each row, decided while compiling. It is
made once, when this file is imported, and its hash is that of a function written by hand: a formula that changes makes
kernels new ones in every store.
"""

from __future__ import annotations

import linecache
from typing import Any

import triton
import triton.language as tl

from rtaccel.core import settings
from rtaccel.kernels._common.activations import ROWS
from rtaccel.kernels._gpu.triton_device import fma_rn, multiply_rn

BIAS = tl.constexpr(12582912.0 + 127.0)
"""1.5 * 2^23, which rounds to a whole number in the last bits, beside the bias of an exponent."""


def _fused(a: Any, b: Any, c: Any) -> Any:
    return fma_rn(a, b, c, False)


def _multiplied(a: Any, b: Any) -> Any:
    return a * b


@triton.jit
def _fma(a, b, c):
    return fma_rn(a, b, c, True)


@triton.jit
def _mul(a, b):
    return multiply_rn(a, b, True)


INTERPRETED = settings.triton_interpret()

fma: Any = _fused if INTERPRETED else _fma
"""a b + c, rounded once; tiles or numbers that broadcast."""

mul: Any = _multiplied if INTERPRETED else _mul
"""a b, rounded whatever is added to it next; tiles or numbers that broadcast."""


@triton.jit
def least(a, b):
    """The smaller one; a NaN stays a NaN."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def most(a, b):
    """The larger one; a NaN stays a NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exp_negative(x):
    """exp(x) for x <= 0, and up to 80; 0 below -87.7."""
    x = most(x, -88.0)
    shifted = fma(1.44269504, x, BIAS)
    r = fma(shifted - BIAS, -0.693147182, x)
    p = fma(1.38436e-3, r, 8.37418e-3)
    p = fma(p, r, 4.1668e-2)
    p = fma(p, r, 0.16666431)
    p = fma(p, r, 0.49999994)
    p = fma(p, r, 1.0)
    p = fma(p, r, 1.0)
    return mul(p, (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True))


@triton.jit
def expm1_negative(x):
    """exp(x) - 1 for x <= 0: 2^n (exp(r) - 1) + (2^n - 1)."""
    x = most(x, -88.0)
    shifted = fma(1.44269504, x, BIAS)
    r = fma(shifted - BIAS, -0.693147182, x)
    p = fma(1.38825004e-3, r, 8.36663414e-3)
    p = fma(p, r, 4.16672044e-2)
    p = fma(p, r, 0.166665435)
    p = fma(p, r, 0.49999997)
    p = fma(mul(r, r), p, r)
    scale = (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return fma(scale, p, scale - 1.0)


@triton.jit
def sigmoid(t):
    """1 / (1 + exp(-t)), by exp of -|t| alone."""
    e = exp_negative(-tl.abs(t))
    return tl.div_rn(tl.where(t < 0, e, 1.0), 1.0 + e)


@triton.jit
def tanh(t):
    """t P(t^2) / Q(t^2), which is 1 as computed at its bound."""
    t = most(least(t, 8.05435276), -8.05435276)
    z = mul(t, t)
    p, q = fma(1.54322493e-8, z, 2.20262464e-5), fma(8.60050079e-7, z, 3.42394691e-4)
    p, q = fma(p, z, 3.579173e-3), fma(q, z, 2.61929259e-2)
    p, q = fma(p, z, 0.134507731), fma(q, z, 0.467840999)
    p, q = fma(p, z, 1.0), fma(q, z, 1.0)
    return tl.div_rn(mul(p, t), q)


@triton.jit
def gelu(t):
    """t / 2 (1 + erf(t / sqrt 2)), erf by Abramowitz and Stegun 7.1.26."""
    x = mul(tl.abs(t), 0.70710678)
    k = tl.div_rn(tl.full(t.shape, 1.0, tl.float32), fma(0.3275911, x, 1.0))
    p = fma(1.061405429, k, -1.453152027)
    p = fma(p, k, 1.421413741)
    p = fma(p, k, -0.284496736)
    p = fma(p, k, 0.254829592)
    tail = mul(mul(mul(p, k), exp_negative(-mul(x, x))), 0.5)  # (1 - erf x) / 2
    return mul(t, tl.where(t < 0, tail, 1.0 - tail))


@triton.jit
def gelu_tanh(t):
    """t / 2 (1 + tanh(0.79788456 (t + 0.044715 t^3)))."""
    inner = fma(mul(mul(t, t), t), 0.044715, t)
    half = mul(t, 0.5)
    return fma(half, tanh(mul(inner, 0.79788456)), half)


@triton.jit
def hard_sigmoid(t):
    return least(most(fma(0.16666667, t, 0.5), 0.0), 1.0)


@triton.jit
def softplus(t):
    """max(t, 0) + 2 atanh(s), s = e / (2 + e), e = exp(-|t|): eight terms of the series."""
    e = exp_negative(-tl.abs(t))
    s = tl.div_rn(e, 2.0 + e)
    z = mul(s, s)
    p = fma(2.0 / 15, z, 2.0 / 13)
    p = fma(p, z, 2.0 / 11)
    p = fma(p, z, 2.0 / 9)
    p = fma(p, z, 2.0 / 7)
    p = fma(p, z, 2.0 / 5)
    p = fma(p, z, 2.0 / 3)
    p = fma(p, z, 2.0)
    return fma(p, s, most(t, 0.0))


@triton.jit
def mish(t):
    """t w / (w + 2), w = u (u + 2), u = exp(t); from 20 on it is t."""
    u = exp_negative(least(t, 20.0))
    w = mul(u, u + 2.0)
    return mul(t, tl.div_rn(w, w + 2.0))


@triton.jit
def below(t, factor, above):
    """factor (exp(t) - 1) for t <= 0, and `above` beside it, which is 0 there."""
    return fma(factor, expm1_negative(least(t, 0.0)), above)


HEAD = '''def activate(t, parameter, NAME: tl.constexpr):
    """f(t), elementwise in float32; NAME is one of `activations.ACTIVATIONS`, parameter its slope or alpha."""
'''


def source() -> str:
    """Of `activate`."""
    branches = "".join(
        f'    {"elif" if index else "if"} NAME == "{name}":\n        y = {row.triton}\n'
        for index, (name, row) in enumerate(ROWS.items())
    )
    return f'{HEAD}{branches}    else:\n        tl.static_assert(False, "no such activation")\n        y = t\n    return y\n'


def _compiled() -> Any:
    """Python's own way to show source that is in no file: triton reads it through `inspect`, and so does a traceback."""
    file, text = "<the activations of rtaccel>", source()
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {}
    exec(compile(text, file, "exec"), globals(), scope)
    return triton.jit(scope["activate"])


activate = _compiled()
