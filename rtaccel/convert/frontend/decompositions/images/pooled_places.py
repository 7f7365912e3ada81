"""Max pooling that gives where its largest elements are: windows as rows, the largest of each, and its place out of a table.

torch's own decomposition makes a number of an open batch. Of several NaN in a window torch names the last, this the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

Sizes = int | Sequence[int]


def max_pool1d_with_indices(
    x: Tensor, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    def beside(sizes: Sizes, first: int) -> Sizes:
        return () if isinstance(sizes, Sequence) and not sizes else [first, *_of(sizes, 1)]

    values, places = max_pool2d_with_indices(
        x.unsqueeze(-2), beside(kernel, 1), beside(stride, 1), beside(padding, 0), beside(dilation, 1), ceil_mode
    )
    return values.squeeze(-2), places.squeeze(-2)


def max_pool2d_with_indices(
    x: Tensor, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    if x.dim() != 4:
        raise NotImplementedError
    kernels, paddings, dilations = _of(kernel, 2), _of(padding, 2), _of(dilation, 2)
    strides = kernels if isinstance(stride, Sequence) and not stride else _of(stride, 2)
    size, reach, read = x.shape[2:], [], []
    for n, k, s, p, d in zip(size, kernels, strides, paddings, dilations):
        rows = _rows(n, k, s, p, d, ceil_mode)
        read.append(rows)
        reach.append(max((rows - 1) * s + (k - 1) * d - p - n + 1, 0))
    padded = torch.nn.functional.pad(x, (paddings[1], reach[1], paddings[0], reach[0]), value=-inf)
    at = [_steps(o, k, s, d) for o, k, s, d in zip(read, kernels, strides, dilations)]
    windows = padded.index_select(2, at[0].flatten()).index_select(3, at[1].flatten())
    windows = windows.unflatten(3, (read[1], kernels[1])).unflatten(2, (read[0], kernels[0])).transpose(3, 4)
    values, which = aten.max.dim(windows.flatten(-2), -1)
    row = (at[0] - paddings[0]).clamp(0, size[0] - 1)[:, None, :, None]
    column = (at[1] - paddings[1]).clamp(0, size[1] - 1)[None, :, None, :]
    table = (row * size[1] + column).flatten()
    each = kernels[0] * kernels[1]
    first = torch.arange(read[0] * read[1]).view(read[0], read[1]) * each
    return values, aten.index.Tensor(table, [which + first])


def _of(sizes: Sizes, count: int) -> list[int]:
    given = [sizes] if isinstance(sizes, int) else list(sizes)
    return given * count if len(given) == 1 else given


def _rows(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Windows along a dimension; the last one begins in the input or its padding in front."""
    free = n + 2 * padding - dilation * (kernel - 1) - 1
    count = (free + stride - 1 if ceil else free) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= n + padding else count


def _steps(windows: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Where each window reads, in the padded input."""
    return torch.arange(windows)[:, None] * stride + torch.arange(kernel)[None, :] * dilation
