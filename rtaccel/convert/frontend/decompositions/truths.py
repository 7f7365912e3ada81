"""Decompositions of reductions that take truth values or small whole numbers for numbers, or numbers for truth values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.graph.small import SMALL


def _of_truths(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of truth values and of whole numbers of one or two bytes in int64, as torch adds them up. Whole numbers become real ones
    first where they are to be added up as such."""

    truth = aten.all.dims if call in (aten.prod.default, aten.prod.dim_int) else aten.any.dims

    def apply(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dtype = kwargs.get("dtype")
        if dtype == torch.bool:  # a product of truth values is true where all are, a sum where any is
            dims = args[0] if args else kwargs.get("dim")
            keep = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
            return truth(
                x if x.dtype == torch.bool else x != 0, [dims] if isinstance(dims, int) else dims or None, keep
            )
        if dtype is not None and dtype.is_floating_point and not x.is_floating_point():
            return call(x.to(dtype), *args, **{k: v for k, v in kwargs.items() if k != "dtype"})
        if x.dtype != torch.bool and x.dtype not in SMALL:
            raise NotImplementedError  # it would be taken apart into itself
        return call(x.long(), *args, **kwargs)

    return apply


def _running(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of whole numbers in int64, whatever they are given in: a result in int32 has the lowest bits. Real numbers that are to be
    added up as whole ones are cut to whole ones first."""

    def apply(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
        whole = dtype == torch.int32 and x.dtype in (torch.int32, torch.int64)
        cut = dtype in (torch.int32, torch.int64) and x.dtype == torch.float32
        if x.dtype != torch.bool and x.dtype not in SMALL and not whole and not cut:
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


def _mean(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of whole numbers as real ones."""

    def apply(x: Tensor, *args: Any, dtype: torch.dtype | None = None) -> Tensor:
        if dtype is None or x.is_floating_point() or x.is_complex():
            raise NotImplementedError
        return call(x.to(dtype), *args)

    return apply


def _extreme(call: Callable[..., Tensor], of_truths: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The largest truth value is whether any is true, and the smallest whether all are. float32 holds whole numbers of one or two
    bytes."""

    def apply(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        if x.dtype in SMALL:
            return call(x.float(), dim, keepdim).to(x.dtype)
        if x.dtype != torch.bool:
            raise NotImplementedError
        return of_truths(x, list(dim) or None, keepdim)

    return apply


TRUTHS: dict[Any, Callable[..., Tensor]] = {
    **{
        target: _of_truths(target)
        for target in (aten.sum.dim_IntList, aten.sum.default, aten.prod.default, aten.prod.dim_int)
    },
    **{target: _mean(target) for target in (aten.mean.dim, aten.mean.default)},
    aten.amax.default: _extreme(aten.amax.default, aten.any.dims),
    aten.amin.default: _extreme(aten.amin.default, aten.all.dims),
    **{target: _running(target) for target in (aten.cumsum.default, aten.cumprod.default)},
    **{
        target: _of_numbers(target)
        for target in (aten.any.dim, aten.any.dims, aten.any.default, aten.all.dim, aten.all.dims, aten.all.default)
    },
}
"""By the call that is taken apart."""
