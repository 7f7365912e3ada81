"""Decompositions of reductions that take truth values for numbers, or numbers for truth values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _of_truths(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of truth values as whole numbers."""

    def apply(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype != torch.bool:
            raise NotImplementedError  # it would be taken apart into itself
        return call(x.long(), *args, **kwargs)

    return apply


def _running(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of whole numbers in int64, whatever they are given in: a result in int32 has the lowest bits. Real numbers that are to be
    added up as whole ones are cut to whole ones first."""

    def apply(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
        whole = dtype == torch.int32 and x.dtype in (torch.int32, torch.int64)
        cut = dtype in (torch.int32, torch.int64) and x.dtype == torch.float32
        if x.dtype != torch.bool and not whole and not cut:
            raise NotImplementedError  # it would be taken apart into itself
        found = call(x.long(), dim)
        return found if dtype in (None, torch.int64) else found.to(dtype)

    return apply


def _of_numbers(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of numbers as truth values."""

    def apply(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype == torch.bool:
            raise NotImplementedError
        return call(x != 0, *args, **kwargs)

    return apply


def _extreme_truth(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The largest truth value is whether any is true, and the smallest whether all are."""

    def apply(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        if x.dtype != torch.bool:
            raise NotImplementedError
        return call(x, list(dim) or None, keepdim)

    return apply


TRUTHS: dict[Any, Callable[..., Tensor]] = {
    **{
        target: _of_truths(target)
        for target in (aten.sum.dim_IntList, aten.sum.default, aten.prod.default, aten.prod.dim_int)
    },
    aten.amax.default: _extreme_truth(aten.any.dims),
    aten.amin.default: _extreme_truth(aten.all.dims),
    **{target: _running(target) for target in (aten.cumsum.default, aten.cumprod.default)},
    **{
        target: _of_numbers(target)
        for target in (aten.any.dim, aten.any.dims, aten.any.default, aten.all.dim, aten.all.dims, aten.all.default)
    },
}
"""By the call that is taken apart."""
