"""Convolutions with weights that are computed, as products of matrices: each sample may have weights of its own.

Such a model joins the samples with the channels, one group or several for a sample: x is [1, samples * C, ..]. The windows of x
are a view, and the groups a dimension of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1,), padding: Any = (0,),
    dilation: Sequence[int] = (1,), groups: Any = 1,
) -> Tensor:  # fmt: skip
    """x [N, C, ..], weight [K, C / groups, ..] -> [N, K, ..], as torch has it."""
    rank = weight.dim() - 2
    if x.dim() != rank + 2 or isinstance(padding, str) or not isinstance(groups, int):
        raise NotImplementedError  # of an open number of samples: with a fixed one it is a number
    stride, padding, dilation = (list(v) * (rank // len(v)) for v in (stride, padding, dilation))
    if any(padding):
        x = pad(x, [p for amount in reversed(padding) for p in (amount, amount)])
    kernel = weight.shape[2:]
    for d in range(rank):  # a dimension of windows, and one of places in a window at the end
        x = x.unfold(2 + d, dilation[d] * (kernel[d] - 1) + 1, stride[d])
        if dilation[d] != 1:
            x = x[..., :: dilation[d]]
    places = x.shape[2 : 2 + rank]
    inner = weight.shape[1]
    windows = x.reshape(x.shape[0], groups, inner, *x.shape[2:])
    at = [0, 1, 2, *range(3 + rank, 3 + 2 * rank), *range(3, 3 + rank)]
    rows, count = inner, 1
    for size in kernel:
        rows *= size
    for size in places:
        count *= size
    windows = windows.permute(at).reshape(x.shape[0], groups, rows, count)
    outputs = weight.shape[0]
    matrices = weight.reshape(groups, outputs // groups, rows)
    y = torch.matmul(matrices.unsqueeze(0), windows).reshape(x.shape[0], outputs, *places)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)
