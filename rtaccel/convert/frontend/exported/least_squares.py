"""Least squares as one call of the graph. torch's own has results whose sizes depend on numbers, so torch.export refuses it; the
solution, which is what models read, has a size that is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAME = "linalg_lstsq"


@torch.library.custom_op("rtaccel::lstsq", mutates_args=())
def lstsq(a: Tensor, b: Tensor, rcond: float | None, driver: str | None) -> Tensor:
    """a [.., m, n], b [.., m, k] or [.., m] -> [.., n, k] or [.., n]: the solution of a y = b with the least squares."""
    return torch.linalg.lstsq(a, b, rcond, driver=driver).solution.clone()


@lstsq.register_fake
def _(a: Tensor, b: Tensor, rcond: float | None, driver: str | None) -> Tensor:
    vector = is_vector(a, b)
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[: -1 if vector else -2])
    return a.new_empty((*lead, a.shape[-1]) if vector else (*lead, a.shape[-1], b.shape[-1]))


LSTSQ = torch.ops.rtaccel.lstsq.default


def is_vector(a: Tensor, b: Tensor) -> bool:
    """Whether b is a vector of each matrix, as torch decides it."""
    return b.dim() == 1 or (b.dim() == a.dim() - 1 and tuple(b.shape) == tuple(a.shape[:-1]))


class _Unknown:
    """A result that a graph cannot have: reading it fails, and so does giving it."""


class _Result(NamedTuple):
    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


class LeastSquares(TorchFunctionMode):
    """While this is open, least squares are that call, and have their solution alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").split(".")[0] != NAME:
            return func(*args, **(kwargs or {}))
        return _Result(_solution(*args, **(kwargs or {})), _Unknown(), _Unknown(), _Unknown())


def _solution(a: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Tensor:
    return torch.ops.rtaccel.lstsq(a, b, rcond, driver)
