"""Max pooling that gives where its largest elements are: windows as rows, the largest of each, and its place out of a table.

torch's own decompositions make a number of an open batch, and name the first of several NaN in a window. A call of torch
names the last one, and of elements that are all -inf the first one in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

Sizes = int | Sequence[int]


def _pooled(dimensions: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def apply(
        x: Tensor, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
    ) -> tuple[Tensor, Tensor]:
        kernels = _of(kernel, dimensions)
        strides = kernels if isinstance(stride, Sequence) and not stride else _of(stride, dimensions)
        given = (x.shape[-dimensions:], kernels, strides, _of(padding, dimensions), _of(dilation, dimensions))
        return _largest(x, [_strided(*sizes, ceil_mode) for sizes in zip(*given)])

    return apply


def _adaptive(dimensions: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def apply(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        return _largest(x, [_even(n, windows) for n, windows in zip(x.shape[-dimensions:], _of(sizes, dimensions))])

    return apply


def _largest(x: Tensor, tables: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """tables: for each of the last dimensions [windows, taps], the positions that each window along it reads, ascending."""
    count, size = len(tables), x.shape[-len(tables) :]
    front = x.dim() - count
    if x.dtype == torch.float64:
        raise NotImplementedError
    windows = x
    for d in reversed(range(count)):
        windows = windows.index_select(front + d, tables[d].flatten()).unflatten(front + d, tables[d].shape)
    order = [front + 2 * d for d in range(count)], [front + 2 * d + 1 for d in range(count)]
    windows = windows.permute(*range(front), *order[0], *order[1]).flatten(-count)
    each = windows.shape[-1]
    values, which = aten.max.dim(windows, -1)
    if x.is_floating_point():
        at = torch.where(torch.isnan(windows), torch.arange(each, dtype=torch.float32), -1.0)
        which = torch.maximum(which, aten.amax.default(at, [-1]).long())
    place = torch.zeros([1] * 2 * count, dtype=torch.int64)
    for d, table in enumerate(tables):
        shape = [1] * 2 * count
        shape[d], shape[count + d] = table.shape
        place = place * size[d] + table.reshape(shape)
    first = torch.arange(place.numel() // each).reshape(place.shape[:count]) * each
    return values, aten.index.Tensor(place.flatten(), [which + first])


def _of(sizes: Sizes, count: int) -> list[int]:
    given = [sizes] if isinstance(sizes, int) else list(sizes)
    return given * count if len(given) == 1 else given


def _strided(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Tensor:
    """A tap in the padding reads the position in the image that is next to it, which its window reads anyway."""
    first = torch.arange(_rows(n, kernel, stride, padding, dilation, ceil))[:, None] * stride - padding
    least = torch.div(dilation - 1 - first, dilation, rounding_mode="floor").clamp(min=0)
    most = torch.div(n - 1 - first, dilation, rounding_mode="floor").clamp(max=kernel - 1)
    return first + torch.minimum(torch.maximum(torch.arange(kernel)[None, :], least), most) * dilation


def _rows(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Windows along a dimension; the last one begins in the input or its padding in front."""
    free = n + 2 * padding - dilation * (kernel - 1) - 1
    count = (free + stride - 1 if ceil else free) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= n + padding else count


def _even(n: int, windows: int) -> Tensor:
    """A window that is shorter than others reads its last position again."""
    longest = max(-(-(i + 1) * n // windows) - i * n // windows for i in range(windows))
    at = torch.arange(windows)[:, None] * n
    first = torch.div(at, windows, rounding_mode="floor")
    end = torch.div(at + n + windows - 1, windows, rounding_mode="floor")
    return torch.minimum(first + torch.arange(longest)[None, :], end - 1)


POOLED: dict[Any, Callable[..., Any]] = {
    aten.max_pool1d_with_indices.default: _pooled(1),
    aten.max_pool2d_with_indices.default: _pooled(2),
    aten.max_pool3d_with_indices.default: _pooled(3),
    aten.adaptive_max_pool1d.default: _adaptive(1),
    aten.adaptive_max_pool2d.default: _adaptive(2),
    aten.adaptive_max_pool3d.default: _adaptive(3),
}
"""By the call that is taken apart."""
