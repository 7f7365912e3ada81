"""Determinants and the like by the pivots of an elimination, which are one call of the graph until a kernel takes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten


@torch.library.custom_op("rtaccel::pivots", mutates_args=())
def pivots(a: Tensor) -> Tensor:
    """a [.., n, n] -> [.., n]: the pivots of Gaussian elimination, the first with the sign of the row exchanges."""
    turns, _, upper = torch.linalg.lu(a)
    found = upper.diagonal(dim1=-2, dim2=-1).clone()
    found[..., :1] *= torch.linalg.det(turns).unsqueeze(-1)
    return found


@pivots.register_fake
def _(a: Tensor) -> Tensor:
    return a.new_empty(a.shape[:-1])


PIVOTS = torch.ops.rtaccel.pivots.default


def _det(a: Tensor) -> Tensor:
    return aten.prod.dim_int(PIVOTS(a), -1)


def _slogdet(a: Tensor) -> tuple[Tensor, Tensor]:
    found = PIVOTS(a)
    return aten.prod.dim_int(torch.sign(found), -1), aten.sum.dim_IntList(found.abs().log(), [-1])


def _logdet(a: Tensor) -> Tensor:
    sign, size = _slogdet(a)
    return torch.where(sign < 0, float("nan"), size)


SYSTEMS: dict[Any, Any] = {
    aten.linalg_det.default: _det,
    aten.det.default: _det,
    aten._linalg_det.default: lambda a: (_det(a), None, None),
    aten.linalg_slogdet.default: _slogdet,
    aten.slogdet.default: _slogdet,
    aten._linalg_slogdet.default: lambda a: (*_slogdet(a), None, None),
    aten.logdet.default: _logdet,
}
"""call -> the same as calls that operators compute. None: a result that is left out, and must not be read."""
