"""Complex arithmetic and movement, call by call."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, minus, pair, plus, rule, times
from rtaccel.convert.frontend.decompositions.einsum import labels


def product(a: Any, b: Any, multiply: Callable[[Any, Any], Any] = times) -> Pair:
    """(a + ib)(c + id) for any product of two values that is linear in each."""
    p, q = pair(a), pair(b)
    re = minus(multiply(p.re, q.re), None if p.im is None or q.im is None else multiply(p.im, q.im))
    first = None if q.im is None else multiply(p.re, q.im)
    second = None if p.im is None else multiply(p.im, q.re)
    return Pair(re, plus(first, second))


@rule(aten.view_as_real.default)
def _view_as_real(x: Pair) -> Tensor:
    return torch.stack([x.re, x.imaginary], -1)


@rule(aten.view_as_complex.default)
def _view_as_complex(x: Tensor) -> Pair:
    return Pair(x.select(-1, 0), x.select(-1, 1))


@rule(aten.complex.default)
def _complex(re: Tensor, im: Tensor) -> Pair:
    return Pair(re, im)


@rule(aten.polar.default)
def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * angle.cos(), size * angle.sin())


@rule(aten.real.default)
def _real(x: Any) -> Tensor:
    return pair(x).re


@rule(aten.imag.default)
def _imag(x: Any) -> Tensor:
    return pair(x).imaginary


@rule(aten.abs.default)
def _abs(x: Pair) -> Tensor:
    return torch.hypot(x.re, x.im) if x.im is not None else x.re.abs()


@rule(aten.angle.default)
def _angle(x: Pair) -> Tensor:
    return torch.atan2(x.imaginary, x.re)


@rule(aten._conj.default, aten.conj.default, aten._conj_physical.default, aten.conj_physical.default)
def _conj(x: Pair) -> Pair:
    return Pair(x.re, None if x.im is None else -x.im)


@rule(aten.add.Tensor, aten.add.Scalar)
def _add(a: Any, b: Any, *, alpha: Any = 1) -> Pair:
    p, q = pair(a), product(b, alpha)
    return Pair(plus(p.re, q.re), plus(p.im, q.im))


@rule(aten.sub.Tensor, aten.sub.Scalar)
def _sub(a: Any, b: Any, *, alpha: Any = 1) -> Pair:
    p, q = pair(a), product(b, alpha)
    return Pair(minus(p.re, q.re), minus(p.im, q.im))


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(a: Any, b: Any, alpha: Any = 1) -> Pair:
    return _sub(b, a, alpha=alpha)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def _mul(a: Any, b: Any) -> Pair:
    return product(a, b)


@rule(aten.div.Tensor, aten.div.Scalar)
def _div(a: Any, b: Any) -> Pair:
    p, q = pair(a), pair(b)
    if q.im is None:
        return Pair(p.re / q.re, None if p.im is None else p.im / q.re)
    return _quotient(p, q, small_of_zero=0.0)


def _quotient(p: Pair, q: Pair, small_of_zero: float) -> Pair:
    """Smith's way, which is torch's: squares of the divisor would overflow, or be nothing.

    small_of_zero: the smaller part of a divisor of 0 beside the larger one.
    """
    re, im = p.re, 0.0 if p.im is None else p.im
    wide = abs(q.re) >= abs(q.im)
    number = not isinstance(wide, Tensor)

    def either(first: Any, second: Any) -> Any:
        return (first if wide else second) if number else torch.where(wide, first, second)

    large, small = either(q.re, q.im) + 0.0, either(q.im, q.re)  # + 0.0: no -0 to divide by
    if number and not large:
        ratio, scale = small_of_zero, math.inf
    else:
        ratio = small / large if number else (small / large).masked_fill(large == 0, small_of_zero)
        scale = 1.0 / (large + small * ratio)
    top = Pair(either(re + im * ratio, re * ratio + im), either(im - re * ratio, im * ratio - re))
    return Pair(top.re * scale, top.im * scale)


@rule(aten.addcmul.default)
def _addcmul(x: Any, a: Any, b: Any, *, value: Any = 1) -> Pair:
    return _add(x, product(a, b), alpha=value)


@rule(aten.addcdiv.default)
def _addcdiv(x: Any, a: Any, b: Any, *, value: Any = 1) -> Pair:
    return _add(x, _div(a, b), alpha=value)


@rule(aten.reciprocal.default)
def _reciprocal(x: Pair) -> Pair:
    if x.im is None:
        return _div(1.0, x)
    return _quotient(pair(1.0), x, small_of_zero=math.nan)  # of 0 torch gives NaN in both parts


@rule(aten.exp.default)
def _exp(x: Pair) -> Pair:
    size = x.re.exp()
    return Pair(size * x.imaginary.cos(), size * x.imaginary.sin())


@rule(aten.pow.Tensor_Scalar)
def _pow(x: Pair, exponent: Any) -> Pair:
    if exponent != 2:
        raise NoPairs("a power of complex numbers")
    return product(x, x)


@rule(aten.where.self)
def _where(condition: Tensor, a: Any, b: Any) -> Pair:
    p, q = pair(a), pair(b)
    return Pair(torch.where(condition, p.re, q.re), torch.where(condition, p.imaginary, q.imaginary))


@rule(aten.masked_fill.Scalar)
def _masked_fill(x: Pair, mask: Tensor, value: Any) -> Pair:
    given = pair(value)
    return Pair(x.re.masked_fill(mask, given.re), x.imaginary.masked_fill(mask, given.im or 0.0))


@rule(aten._to_copy.default, aten.to.dtype)
def _to(x: Any, dtype: torch.dtype | None = None, *_: Any, **kwargs: Any) -> Any:
    dtype = kwargs.get("dtype", dtype)
    if dtype is not None and not dtype.is_complex:
        return pair(x).re.to(dtype)
    return pair(x)


@rule(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(a: Any, b: Any) -> Pair:
    return product(a, b, torch.matmul)


@rule(aten.addmm.default, aten.baddbmm.default)
def _addmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Pair:
    return _add(product(x, beta), _matmul(a, b), alpha=alpha)


@rule(aten.linear.default)
def _linear(x: Any, weight: Any, bias: Any = None) -> Pair:
    made = product(x, weight, torch.nn.functional.linear)
    return made if bias is None else _add(made, bias)


@rule(aten.einsum.default)
def _einsum(equation: str, operands: list[Any], *, path: Any = None) -> Pair:
    given = [pair(x) for x in operands]
    if len(given) == 2:
        return product(given[0], given[1], lambda p, q: torch.einsum(equation, p, q))
    named = labels(equation, [p.re for p in given])
    if named is None:
        raise NoPairs("an einsum in which an index occurs twice in an operand")
    terms, out = named
    if len(given) == 1:
        single = f"{terms[0]}->{out}"
        return Pair(*(None if part is None else torch.einsum(single, part) for part in given[0]))
    found, term = given[0], terms[0]
    for i in range(1, len(terms)):
        later = out + "".join(terms[i + 1 :])
        kept = out if i == len(terms) - 1 else "".join(c for c in dict.fromkeys(term + terms[i]) if c in later)
        found, term = product(found, given[i], partial(torch.einsum, f"{term},{terms[i]}->{kept}")), kept
    return found


@rule(aten.tensordot.default)
def _tensordot(a: Any, b: Any, dims_self: list[int], dims_other: list[int]) -> Pair:
    return product(a, b, lambda p, q: torch.tensordot(p, q, (dims_self, dims_other)))


def _by_part(target: Any) -> Callable[..., Any]:
    """A call that moves numbers, or adds them: the same for both parts."""

    def parts(value: Any, which: int) -> Any:
        if isinstance(value, Pair):
            return value.re if which == 0 else value.imaginary
        if isinstance(value, (list, tuple)):
            return [parts(v, which) for v in value]
        return value

    def apply(*args: Any, **kwargs: Any) -> Any:
        made = [target(*(parts(a, w) for a in args), **{k: parts(v, w) for k, v in kwargs.items()}) for w in (0, 1)]
        return Pair(*made) if isinstance(made[0], Tensor) else [Pair(re, im) for re, im in zip(*made)]

    return apply


for _target in (
    aten.neg.default, aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default, aten.cumsum.default,
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int,
    aten.t.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default,
    aten.slice.Tensor, aten.select.int, aten.expand.default, aten.clone.default, aten.contiguous.default,
    aten.alias.default, aten.detach.default, aten.flip.default, aten.roll.default, aten.repeat.default,
    aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.cat.default, aten.stack.default,
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int, aten.flatten.using_ints,
    aten.unflatten.int, aten.movedim.int, aten.movedim.intlist, aten.diagonal.default, aten.unfold.default,
    aten.slice_scatter.default, aten.select_scatter.default, aten.index_put.default,
    aten.narrow.default, aten.swapaxes.default, aten.fft_fftshift.default, aten.fft_ifftshift.default,
    aten.resolve_conj.default, aten.resolve_neg.default, aten.lift_fresh_copy.default, aten.expand_as.default,
):  # fmt: skip
    rule(_target)(_by_part(_target))


@rule(aten.constant_pad_nd.default, aten.pad.default)
def _pad(x: Pair, pad: list[int], *rest: Any) -> Pair:
    mode, value = (rest[0], rest[1:]) if rest and isinstance(rest[0], str) else ("constant", rest)
    if mode == "constant" and value and value[0]:
        raise NoPairs("padding with another number than zero")
    return Pair(*(torch.nn.functional.pad(part, pad, mode=mode) for part in (x.re, x.imaginary)))


@rule(aten.copy.default)
def _copy(x: Any, source: Any, non_blocking: bool = False) -> Any:
    """The numbers of the source in the shape and kind of x."""
    made = pair(source)
    shape = x.re.shape if isinstance(x, Pair) else x.shape
    # An open number of samples would be read from x, which nothing else may need.
    parts = [part if part.shape == shape else part.expand(shape) for part in (made.re, made.imaginary)]
    return Pair(*parts) if isinstance(x, Pair) else parts[0]
