"""`diagonal_scatter`: a choice by place between a tensor and the numbers of its diagonal, each in its row."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    first, second = dim1 % x.dim(), dim2 % x.dim()
    rows, columns = x.shape[first], x.shape[second]
    if source.shape[-1] == 0:
        return x.clone()
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    place = torch.arange(rows) + min(offset, 0)
    own = source.index_select(-1, place.clamp(0, source.shape[-1] - 1))  # a number for each row
    others = [d for d in range(x.dim()) if d not in (first, second)]
    chosen = torch.where(column - row == offset, own[..., None], x.permute(*others, first, second))
    order = [*others, first, second]
    return chosen.permute([order.index(d) for d in range(x.dim())])
