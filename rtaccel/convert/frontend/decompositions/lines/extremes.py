"""Running extremes with their places, and the value that is there most often."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.lines.running_op import RUNNING_EXTREME

STABLE = 16
"""Elements up to which torch's `mode` sorts equal ones in their order: with more, which of them it names is not defined."""


def ordered(x: Tensor) -> Tensor:
    """In a dtype that sorts and running extremes are computed in."""
    return x if x.dtype in (torch.float32, torch.int64) else x.long()


def places(x: Tensor, dim: int) -> Tensor:
    """int64, as x: 0, 1, ... along a dimension."""
    shape = [1] * x.dim()
    shape[dim] = -1
    return torch.arange(x.shape[dim], device=x.device).reshape(shape)


def running(largest: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """The place is that of the last of equal elements, and from a NaN on that of the last NaN."""

    def apply(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        if not x.dim() or x.is_complex() or x.dtype == torch.float64:
            raise NotImplementedError
        dim %= x.dim()
        given = ordered(x)
        found = RUNNING_EXTREME(given, dim, largest)
        here = given == found
        if x.is_floating_point():
            here = here | torch.isnan(given)
        at = torch.where(here, places(x, dim), -1)
        return found.to(x.dtype), RUNNING_EXTREME(at, dim, True)

    return apply


def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor | None]:
    """The least of those that are there most often, and the place of its last one: where a run in a sorted line is longest."""
    if not x.dim() or x.is_complex() or x.dtype == torch.float64 or not isinstance(x.shape[dim % x.dim()], int):
        raise NotImplementedError
    dim %= x.dim()
    size = x.shape[dim]
    given, place = aten.sort.stable(ordered(x), stable=True, dim=dim)
    step = places(x, dim)
    if size == 1:
        return (x.clone(), place) if keepdim else (x.squeeze(dim), place.squeeze(dim))
    new = torch.narrow(given, dim, 1, size - 1) != torch.narrow(given, dim, 0, size - 1)
    first = torch.ones_like(torch.narrow(new, dim, 0, 1))
    start = RUNNING_EXTREME(torch.where(torch.cat([first, new], dim), step, 0), dim, True)
    end = aten.argmax.default(step - start, dim, True)
    found, at = given.gather(dim, end).to(x.dtype), place.gather(dim, end) if size <= STABLE else None
    if keepdim:
        return found, at
    return found.squeeze(dim), None if at is None else at.squeeze(dim)
