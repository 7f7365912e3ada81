"""Convolutions and pools in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx.table import op
from rtaccel.core.errors import UnsupportedProblem

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _dims(name: str, x: Tensor) -> int:
    dims = x.dim() - 2
    if dims not in (1, 2, 3):
        raise UnsupportedProblem(name, f"{dims} spatial dimensions", "1, 2 or 3", "Reshape the input in the file.")
    return dims


def ends_of(
    sizes: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    auto_pad: str, pads: Sequence[int] | None,
) -> list[tuple[Any, Any]]:  # fmt: skip
    """What each dimension is padded by, before and after."""
    count = len(kernel)
    if auto_pad in ("NOTSET", ""):
        given = list(pads or [0] * (2 * count))
        return [(given[i], given[i + count]) for i in range(count)]
    if auto_pad == "VALID":
        return [(0, 0)] * count
    found = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations):
        steps = -(-size // stride)
        missing = (steps - 1) * stride + (k - 1) * dilation + 1 - size
        missing = missing if missing > 0 else 0
        small = missing // 2
        found.append((small, missing - small) if auto_pad == "SAME_UPPER" else (missing - small, small))
    return found


def _padded(x: Tensor, ends: list[tuple[Any, Any]], value: float = 0.0) -> tuple[Tensor, list[Any]]:
    """The input, padded where its ends differ, and what a call of torch pads by itself."""
    if all(before == after for before, after in ends):
        return x, [before for before, _ in ends]
    return F.pad(x, _flat(ends), value=value), [0] * len(ends)


@op("Conv")
def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Any = None,
    group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
) -> Tensor:  # fmt: skip
    dims = _dims("Conv", x)
    strides, dilations = list(strides or [1] * dims), list(dilations or [1] * dims)
    ends = ends_of(x.shape[2:], weight.shape[2:], strides, dilations, auto_pad, pads)
    x, padding = _padded(x, ends)
    return _CONV[dims](x, weight, bias, strides, padding, dilations, group)


@op("ConvTranspose")
def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Any = None,
    group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = None, output_padding: Any = None,
    output_shape: Any = None,
) -> Tensor:  # fmt: skip
    """What `pads` takes away differs at both ends in ONNX: the most that both have is torch's padding, the rest is cut."""
    dims = _dims("ConvTranspose", x)
    strides, dilations = list(strides or [1] * dims), list(dilations or [1] * dims)
    more = list(output_padding or [0] * dims)
    kernel = weight.shape[2:]
    full = [(x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + more[i] for i in range(dims)]
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = (
            list(output_shape)[-dims:] if output_shape is not None else [s * st for s, st in zip(x.shape[2:], strides)]
        )
        ends = []
        for have, want in zip(full, wanted):
            cut = have - want
            small = cut // 2
            ends.append((small, cut - small) if auto_pad == "SAME_UPPER" else (cut - small, small))
    else:
        ends = ends_of(x.shape[2:], kernel, strides, dilations, auto_pad, pads)
    if all(before == after >= 0 and m < max(s, d) for (before, after), m, s, d in zip(ends, more, strides, dilations)):
        padding = [before for before, _ in ends]
        return _TRANSPOSED[dims](x, weight, bias, strides, padding, more, group, dilations)
    grown = [m if m < max(s, d) else 0 for m, s, d in zip(more, strides, dilations)]
    made = _TRANSPOSED[dims](x, weight, bias, strides, 0, grown, group, dilations)
    more_behind = [(0, m - g) for m, g in zip(more, grown)]  # zeros and the bias, beyond what the taps reach
    beyond = [(max(-b, 0), max(-a, 0)) for b, a in ends]
    if bias is not None and (any(m for _, m in more_behind) or any(v for pair in beyond for v in pair)):
        raise UnsupportedProblem(
            "ConvTranspose", f"output_padding={more} and pads={ends} with a bias", "an output inside of what the taps reach",
            "Add the bias after the padding in the file.",
        )  # fmt: skip
    return F.pad(F.pad(made, _flat(more_behind)), [-v for v in _flat(ends)])


def _rounded_up(x: Tensor, ends: Any, kernel: Any, strides: Any, dilations: Any, ceil_mode: int) -> bool:
    """Whether ceil_mode gives more windows than without, which start inside of the padded input as both define them."""
    if not ceil_mode:
        return False
    for size, (before, after), k, stride, dilation in zip(x.shape[2:], ends, kernel, strides, dilations):
        if (size + before + after - (k - 1) * dilation - 1) % stride:
            return True
    return False


def _whole(ends: list[tuple[Any, Any]], kernel: Sequence[int]) -> bool:
    """Whether torch's own padding does: the same at both ends, and at most half of the window."""
    return all(before == after and 2 * before <= k for (before, after), k in zip(ends, kernel))


@op("MaxPool")
def max_pool(
    x: Tensor, *, kernel_shape: Any, outputs: int, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
    pads: Any = None, storage_order: int = 0, strides: Any = None,
) -> Tensor:  # fmt: skip
    if outputs > 1:
        raise UnsupportedProblem("MaxPool", "its indices as an output", "values alone", "Leave the second output out.")
    dims = _dims("MaxPool", x)
    kernel, strides, dilations = list(kernel_shape), list(strides or [1] * dims), list(dilations or [1] * dims)
    ends = ends_of(x.shape[2:], kernel, strides, dilations, auto_pad, pads)
    up = _rounded_up(x, ends, kernel, strides, dilations, ceil_mode)
    if _whole(ends, kernel):
        return _MAX[dims](x, kernel, strides, [b for b, _ in ends], dilations, ceil_mode=up)
    low = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = F.pad(F.pad(x, _flat(ends), value=low), _flat(_behind(x, ends, kernel, strides, dilations, up)), value=low)
    return _MAX[dims](padded, kernel, strides, 0, dilations)


@op("AveragePool")
def average_pool(
    x: Tensor, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Any = None, pads: Any = None, strides: Any = None,
) -> Tensor:  # fmt: skip
    dims = _dims("AveragePool", x)
    kernel, strides = list(kernel_shape), list(strides or [1] * dims)
    dilations = list(dilations or [1] * dims)
    ends = ends_of(x.shape[2:], kernel, strides, dilations, auto_pad, pads)
    up = _rounded_up(x, ends, kernel, strides, dilations, ceil_mode)
    plain = all(d == 1 for d in dilations)
    if plain and _whole(ends, kernel) and not (up and count_include_pad):
        return _AVERAGE[dims](x, kernel, strides, [b for b, _ in ends], up, bool(count_include_pad))
    more = _behind(x, ends, kernel, strides, dilations, up)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    inside = F.pad(ones, _flat(ends), value=float(count_include_pad))
    counts = _window_sums(F.pad(inside, _flat(more)), kernel, strides, dilations)
    return _window_sums(F.pad(F.pad(x, _flat(ends)), _flat(more)), kernel, strides, dilations) / counts


def _flat(ends: Sequence[tuple[Any, Any]]) -> list[Any]:
    """As F.pad takes them."""
    return [v for pair in reversed(ends) for v in pair]


def _behind(x: Tensor, ends: Any, kernel: Any, strides: Any, dilations: Any, up: bool) -> list[tuple[int, Any]]:
    """What ceil_mode adds behind each dimension. A window that would start in the padding behind is none."""
    found = []
    for size, (before, after), k, s, d in zip(x.shape[2:], ends, kernel, strides, dilations):
        whole, left = divmod(size + before + after - (k - 1) * d - 1, s)
        found.append((0, s - left if up and left and (whole + 1) * s < size + before else 0))
    return found


def _window_sums(x: Tensor, kernel: Any, strides: Any, dilations: Any) -> Tensor:
    """As a depthwise convolution with ones."""
    ones = torch.ones((x.shape[1], 1, *kernel), dtype=x.dtype)
    return _CONV[len(kernel)](x, ones, None, strides, 0, dilations, x.shape[1])


@op("LpPool")
def lp_pool(
    x: Tensor, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None, p: int = 2,
    pads: Any = None, strides: Any = None,
) -> Tensor:  # fmt: skip
    dims = _dims("LpPool", x)
    kernel, strides, dilations = list(kernel_shape), list(strides or [1] * dims), list(dilations or [1] * dims)
    ends = ends_of(x.shape[2:], kernel, strides, dilations, auto_pad, pads)
    up = _rounded_up(x, ends, kernel, strides, dilations, ceil_mode)
    padded = F.pad(F.pad(x.abs().pow(p), _flat(ends)), _flat(_behind(x, ends, kernel, strides, dilations, up)))
    return _window_sums(padded, kernel, strides, dilations).pow(1.0 / p)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


@op("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return x.abs().pow(p).sum(_spatial(x), keepdim=True).pow(1.0 / p)
