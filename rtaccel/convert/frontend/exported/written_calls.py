"""Calls that torch.export cannot take as torch has them, since they look at numbers or no trace sees them: written as others."""

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


def _bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """As many counts as the least number of them, where no number needs more: that is read, and guarded as all that is read."""
    if x.dim() != 1 or not minlength or not x.numel() or (weights is not None and weights.dtype != torch.float32):
        return NotImplemented
    if not bool((x < minlength).all()):
        return NotImplemented
    each = torch.ones(x.shape, dtype=torch.int64, device=x.device) if weights is None else weights
    return torch.zeros(minlength, dtype=each.dtype, device=x.device).scatter_add(0, x.long(), each)


def _set_data(x: Tensor, given: Tensor) -> None:
    """As a copy: no trace sees what is assigned. (In torch the two also share their numbers from there on.)"""
    if given is x or given.shape != x.shape or given.dtype != x.dtype:
        return NotImplemented
    x.copy_(given)
    return None


_DATA: Any = Tensor.data

_WRITTEN: dict[Any, Callable[..., Any]] = {
    torch.cov: _cov, Tensor.cov: _cov, torch.corrcoef: _corrcoef, Tensor.corrcoef: _corrcoef,
    torch.combinations: _combinations, _DATA.__get__: Tensor.detach, _DATA.__set__: _set_data,
}  # fmt: skip
"""No trace sees where `.data` comes from: it would be the numbers of the example. It shares them, and so does detach()."""

_READING: dict[Any, Callable[..., Any]] = {torch.bincount: _bincount, Tensor.bincount: _bincount}
"""Those that read a number to say that another way of the call is not needed."""


class WrittenCalls(TorchFunctionMode):
    """While it is entered, these calls are written so. reads: also those that read a number, of tensors that have numbers."""

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        self._written = {**_WRITTEN, **(_READING if reads else {})}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = self._written.get(func)
        made = NotImplemented if written is None else written(*args, **kwargs)
        return func(*args, **kwargs) if made is NotImplemented else made
