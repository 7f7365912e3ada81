"""Functions of complex numbers other than arithmetic: roots, powers, logarithms, and those of angles; norms and comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex.arithmetic import product
from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, pair, rule


def _size(x: Pair) -> Tensor:
    return torch.hypot(x.re, x.imaginary)


@rule(aten.square.default)
def _square(x: Pair) -> Pair:
    return product(x, x)


@rule(aten.sgn.default)
def _sgn(x: Pair) -> Pair:
    """On the unit circle; 0 stays 0."""
    size = _size(x)
    safe = torch.where(size == 0, torch.ones_like(size), size)
    return Pair(x.re / safe, x.imaginary / safe)


@rule(aten.sqrt.default)
def _sqrt(x: Pair) -> Pair:
    """The part that does not cancel is a root, the other one follows from it."""
    large = ((_size(x) + x.re.abs()) * 0.5).sqrt()
    small = x.imaginary.abs() * 0.5 / torch.where(large == 0, torch.ones_like(large), large)
    right = x.re >= 0
    im = torch.where(right, small, large)
    return Pair(torch.where(right, large, small), torch.where(x.imaginary < 0, -im, im))


@rule(aten.log.default)
def _log(x: Pair) -> Pair:
    return Pair(_size(x).log(), torch.atan2(x.imaginary, x.re))


@rule(aten.sin.default)
def _sin(x: Pair) -> Pair:
    return Pair(x.re.sin() * x.imaginary.cosh(), x.re.cos() * x.imaginary.sinh())


@rule(aten.cos.default)
def _cos(x: Pair) -> Pair:
    return Pair(x.re.cos() * x.imaginary.cosh(), -(x.re.sin() * x.imaginary.sinh()))


@rule(aten.sinh.default)
def _sinh(x: Pair) -> Pair:
    return Pair(x.re.sinh() * x.imaginary.cos(), x.re.cosh() * x.imaginary.sin())


@rule(aten.cosh.default)
def _cosh(x: Pair) -> Pair:
    return Pair(x.re.cosh() * x.imaginary.cos(), x.re.sinh() * x.imaginary.sin())


@rule(aten.tanh.default)
def _tanh(x: Pair) -> Pair:
    """By hyperbolic functions of the real part that stay below 1: those of large numbers are infinite."""
    t, angle = x.re.tanh(), x.imaginary
    near = 1.0 - t * t
    below = t * t * angle.sin() ** 2 + angle.cos() ** 2
    return Pair(t / below, near * angle.sin() * angle.cos() / below)


@rule(aten.eq.Tensor, aten.eq.Scalar)
def _eq(a: Any, b: Any) -> Tensor:
    p, q = pair(a), pair(b)
    return torch.logical_and(p.re == q.re, p.imaginary == (0.0 if q.im is None else q.im))


@rule(aten.ne.Tensor, aten.ne.Scalar)
def _ne(a: Any, b: Any) -> Tensor:
    return torch.logical_not(_eq(a, b))


@rule(aten.linalg_vector_norm.default)
def _norm(x: Pair, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if dtype is not None:
        raise NoPairs("a norm in another dtype")
    return torch.linalg.vector_norm(_size(x), ord, dim, keepdim)


@rule(aten.tril.default)
def _tril(x: Pair, diagonal: int = 0) -> Pair:
    return Pair(x.re.tril(diagonal), x.imaginary.tril(diagonal))


@rule(aten.triu.default)
def _triu(x: Pair, diagonal: int = 0) -> Pair:
    return Pair(x.re.triu(diagonal), x.imaginary.triu(diagonal))


@rule(aten.prod.dim_int)
def _prod(x: Pair, dim: int, keepdim: bool = False, *, dtype: Any = None) -> Pair:
    """Halves multiplied with each other, until one is left."""
    size = x.re.shape[dim]
    if not isinstance(size, int) or size < 1 or dtype is not None:
        raise NoPairs("a product of an open number of factors")
    found = Pair(x.re, x.imaginary)
    while size > 1:
        half = size // 2
        low, high = (Pair(*(part.narrow(dim, at, half) for part in found)) for at in (0, half))
        made = product(low, high)
        if size % 2:
            made = Pair(*(torch.cat([a, b.narrow(dim, size - 1, 1)], dim) for a, b in zip(made, found)))
        found, size = made, half + size % 2
    return found if keepdim else Pair(*(part.squeeze(dim) for part in found))
