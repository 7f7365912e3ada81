"""Products of rows with the matrix of their group, as mixtures of experts have them, and the counts that say where groups end.

y[r] = x[r] @ weight[g(r)], where g(r) is how many groups end at row r or before. All rows are multiplied with all
matrices, as one linear layer, and each takes its own part. Shapes then do not depend on how many rows a group has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

MAX_GROUPS = 16
CACHED = 2 << 20
"""Bytes of all matrices that a second-level cache holds: with more of them, reading those that no row needs costs more."""
MAX_COUNTED = 1 << 16


def grouped_mm(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """x [rows, K], weight [groups, K, N], offs [groups]: where each ends. Rows behind the last are 0."""
    groups, inputs, outputs = weight.shape
    if x.dtype != torch.float32 or (groups > MAX_GROUPS and groups * inputs * outputs * 4 > CACHED):
        raise NotImplementedError
    rows = torch.arange(x.shape[0], device=x.device)
    ended = (offs.to(torch.int64)[None, :] <= rows[:, None]).to(torch.int64).sum(1)
    all_of_them = x @ weight.permute(1, 0, 2).reshape(inputs, groups * outputs)
    own = aten.clamp_max.default(ended, groups - 1)[:, None, None].expand(-1, 1, outputs)
    taken = all_of_them.reshape(-1, groups, outputs).gather(1, own).squeeze(1)
    return torch.where((ended < groups)[:, None], taken, 0.0)


def histc(x: Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> Tensor:
    """Of whole numbers in bins of one each: how often each is there."""
    if x.dtype != torch.float32 or max - min != bins - 1 or min != int(min) or x.numel() * bins > MAX_COUNTED:
        raise NotImplementedError
    # a bin is (bins - 1) / bins wide, which has one whole number in it; the last two share an edge that is none
    place = (
        ((x.reshape(-1) - min) * (bins / (max - min)) if bins > 1 else x.reshape(-1) * 0.0).floor().clamp_max(bins - 1)
    )
    inside = (x.reshape(-1) >= min) & (x.reshape(-1) <= max)
    same = place[:, None] == torch.arange(bins, device=x.device)[None, :]
    return torch.where(same & inside[:, None], 1.0, 0.0).sum(0)


GROUPED: dict[Any, Callable[..., Any]] = {aten.histc.default: histc}
BY_NAME: dict[str, Callable[..., Any]] = {"transformers::grouped_mm_fallback": grouped_mm}
"""Operators of packages, which may not be there."""
