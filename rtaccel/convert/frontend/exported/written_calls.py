"""Calls that torch.export cannot take as torch has them, since they look at numbers: written as calls that look at none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, combinations_with_replacement
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _cov(x: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None) -> Tensor:
    """torch asks whether the weights are none below zero."""
    if fweights is not None or aweights is not None or x.dim() > 2 or not x.is_floating_point():
        return NotImplemented
    rows = x if x.dim() == 2 else x[None]
    off = rows - rows.mean(1, keepdim=True)
    found = off @ off.T / max(rows.shape[1] - correction, 0)
    return found if x.dim() == 2 and x.shape[0] != 1 else found.reshape(())


def _corrcoef(x: Tensor) -> Tensor:
    found = _cov(x)
    if found is NotImplemented or not found.dim():
        return found if found is NotImplemented else found / found
    deviation = found.diagonal().sqrt()
    return (found / deviation[:, None] / deviation[None]).clamp(-1, 1)


def _combinations(x: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """torch chooses by a mask, and how many it leaves says a number."""
    if x.dim() != 1 or not isinstance(x.shape[0], int) or r < 1:
        return NotImplemented
    chosen = list((combinations_with_replacement if with_replacement else combinations)(range(x.shape[0]), r))
    if not chosen:
        return NotImplemented
    return x[torch.tensor(chosen, device=x.device)]


_WRITTEN: dict[Any, Callable[..., Any]] = {
    torch.cov: _cov, Tensor.cov: _cov, torch.corrcoef: _corrcoef, Tensor.corrcoef: _corrcoef,
    torch.combinations: _combinations,
}  # fmt: skip


class WrittenCalls(TorchFunctionMode):
    """While it is entered, these calls are written so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = _WRITTEN.get(func)
        made = NotImplemented if written is None else written(*args, **kwargs)
        return func(*args, **kwargs) if made is NotImplemented else made
