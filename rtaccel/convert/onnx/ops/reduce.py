"""Reductions, softmax, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.table import op


def _product(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdims)
    return x


_REDUCE: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceSum": lambda x, a, k: x.sum(a, k),
    "ReduceMean": lambda x, a, k: x.mean(a, k),
    "ReduceMax": lambda x, a, k: x.amax(a, k),
    "ReduceMin": lambda x, a, k: x.amin(a, k),
    "ReduceProd": _product,
    "ReduceL1": lambda x, a, k: x.abs().sum(a, k),
    "ReduceL2": lambda x, a, k: (x * x).sum(a, k).sqrt(),
    "ReduceSumSquare": lambda x, a, k: (x * x).sum(a, k),
    "ReduceLogSum": lambda x, a, k: x.sum(a, k).log(),
    "ReduceLogSumExp": lambda x, a, k: torch.logsumexp(x, a, k),
}


def reduce(
    x: Tensor, given: n.Numbers = None, *, kind: str, axes: Sequence[int] | None, keepdims: bool, noop: bool
) -> Tensor:
    chosen = axes if given is None else n.ints(given)
    if not chosen:
        if noop:
            return x
        chosen = range(x.dim())
    if kind in ("ReduceMax", "ReduceMin") and any(isinstance(x.shape[a], int) and x.shape[a] == 0 for a in chosen):
        return _of_nothing(x, [a % x.dim() for a in chosen], kind == "ReduceMax", keepdims)
    return x if x.dim() == 0 else _REDUCE[kind](x, tuple(chosen), keepdims).to(x.dtype)


def _of_nothing(x: Tensor, axes: list[int], largest: bool, keepdims: bool) -> Tensor:
    """The extreme of no elements: the lowest, or highest, that there is."""
    sizes = [1 if i in axes else size for i, size in enumerate(x.shape) if keepdims or i not in axes]
    low, high = (-torch.inf, torch.inf) if x.is_floating_point() else (False, True)
    if x.dtype != torch.bool and not x.is_floating_point():
        low, high = torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max
    return torch.full(sizes, low if largest else high, dtype=x.dtype)


@op(*_REDUCE, builds=True)
def reduction(
    build: Any, x: Any, given: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Any:
    """Axes as an attribute, or as an input (13 on for ReduceSum, 18 on for the others)."""
    known = None if given is None else build.numbers(given, 1)
    return build.call(
        reduce, x, known, kind=build.node.op_type, axes=axes, keepdims=bool(keepdims), noop=bool(noop_with_empty_axes)
    )


def _softmax(x: Tensor, axis: int, log: bool) -> Tensor:
    return torch.log_softmax(x, axis) if log else torch.softmax(x, axis)


def flat_softmax(x: Tensor, *, axis: int, log: bool) -> Tensor:
    """Before opset 13: over everything from `axis` on, together."""
    axis = axis % x.dim()
    if axis == x.dim() - 1 or all(size == 1 for size in x.shape[axis + 1 :]):
        return _softmax(x, axis, log)
    return _softmax(x.flatten(axis), axis, log).reshape(x.shape)


@op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return _softmax(x, axis, False)


@op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return _softmax(x, axis, True)


@op("Softmax", since=1)
def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return flat_softmax(x, axis=axis, log=False)


@op("LogSoftmax", since=1)
def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return flat_softmax(x, axis=axis, log=True)


@op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    places = torch.arange(x.shape[axis]).reshape(*(-1 if i == axis % x.dim() else 1 for i in range(x.dim())))
    return (torch.argmax(x, axis, keepdim=True) == places).to(x.dtype)


@op("CumSum", numbers=(1,))
def cum_sum(x: Tensor, axis: n.Numbers, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = n.ints(axis)[0]
    x = x.flip(dim) if reverse else x
    if exclusive:  # of what is before: an infinity stays out of its own place
        x = torch.cat((torch.zeros_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, x.shape[dim] - 1)), dim)
    made = torch.cumsum(x, dim, dtype=x.dtype)
    return made.flip(dim) if reverse else made


@op("CumProd", numbers=(1,))
def cum_prod(x: Tensor, axis: n.Numbers, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = n.ints(axis)[0]
    x = x.flip(dim) if reverse else x
    if exclusive:
        x = torch.cat((torch.ones_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, x.shape[dim] - 1)), dim)
    made = torch.cumprod(x, dim, dtype=x.dtype)
    return made.flip(dim) if reverse else made
