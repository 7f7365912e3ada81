"""Rules for convolutions, pooling and padding: channels-last values with a geometry."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode, zeros_like_rows
from rtaccel.convert.patterns.rules import Call, Refused, rule

aten = torch.ops.aten
FLAT_CHANNELS = 4
"""Up to so many channels an image of the caller is taken as it lies, one dense row, instead of a row for each position."""


def _pair(value: Any, spatial: int, default: int) -> tuple[int, int]:
    """A parameter of one or two dimensions as (height, width); a sequence has height 1."""
    values = [value] if isinstance(value, int) else list(value)
    if not values:
        values = [default]
    values = values * spatial if len(values) == 1 else values
    return (default, values[0]) if spatial == 1 else (values[0], values[1])


def unpadded(call: Call, node: fx.Node) -> tuple[fx.Node, tuple[int, int, int, int]]:
    """The tensor behind zero padding of its last dimensions, and (left, right, top, bottom)."""
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return node, (0, 0, 0, 0)
    inner = Call(call.build, node)
    pad = list(inner["pad"])
    if node.target is aten.pad.default and inner["mode"] != "constant":
        return node, (0, 0, 0, 0)
    if inner["value"] not in (None, 0, 0.0) or len(pad) > 4 or any(p < 0 for p in pad):
        return node, (0, 0, 0, 0)
    pad += [0] * (4 - len(pad))
    return inner["self"], (pad[0], pad[1], pad[2], pad[3])


def channels_last(call: Call, node: fx.Node, spatial: int) -> tuple[str, View, tuple[int, ...]]:
    """A value that holds an image [.., C, (H,) W] with a row of channels for each position (or, of few channels in the
    caller's memory, one dense row), the view of it, and its spatial shape. What is in front is the samples, or 1."""
    view = call.view(node)
    front = len(view.dims) - spatial - 1
    if front < 0 or any(view.has_batch(i) for i in range(front, len(view.dims))):
        raise Refused("layout: its samples are not its first dimension")
    if any(not view.has_batch(i) and view.shape[i] != 1 for i in range(front)):
        raise Refused("layout: has images side by side in one sample")
    return _channels_last(call, view, front)


def _channels_last(call: Call, view: View, front: int) -> tuple[str, View, tuple[int, ...]]:
    channels, spatial = view.shape[front], view.shape[front + 1 :]
    rank = len(view.dims)
    turned = layout.permute(view, [*range(front), *range(front + 1, rank), front])
    buffer = call.build.buffers[view.base]
    back = [*range(front), rank - 1, *range(front, rank - 1)]
    flat = channels <= FLAT_CHANNELS and not call.build.windowed
    plain = layout.same_layout(turned, call.build._dense_like(turned)) and layout.covers(view, buffer.elements)
    if plain and buffer.width == 0 and flat:
        call.build.pin(view.base, buffer.elements)
    if not plain or not ((buffer.width == buffer.elements and flat) or call.build.pin(view.base, channels)):
        turned = call.build.packed(turned)
    return turned.base, layout.permute(turned, back), spatial


def _by_position(call: Call, base: str, view: View, front: int, channels: int) -> str:
    """The same image with a row for each position, where it lies flat."""
    if call.build.buffers[base].width == channels:
        return base
    rank = len(view.dims)
    turned = layout.permute(view, [*range(front), *range(front + 1, rank), front])
    return call.build.packed(turned, width=channels).base


def _image(front: tuple[tuple[Atom, ...], ...], channels: int, spatial: tuple[int, ...]) -> View:
    """The view of a result [.., C, (H,) W] over channels-last rows."""
    stride = channels
    places: list[tuple[Atom, ...]] = []
    for size in reversed(spatial):
        places.insert(0, (Atom(size, stride),))
        stride *= size
    return View("", (*front, (Atom(channels, 1),), *places))


@rule(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding)
def _conv(call: Call) -> OpNode | str:
    one = call.node.target in (aten.conv1d.default, aten.conv1d.padding)
    spatial = 1 if one else 2
    weight, bias = call.constant(call["weight"]), call["bias"]
    if weight is None:
        return "its weight is computed, not a parameter"
    bias_tensor = zeros_like_rows(weight) if bias is None else call.constant(bias)
    if bias_tensor is None:
        return "its bias is computed, not a parameter"
    source, (left, right, top, bottom) = unpadded(call, call["input"])
    base, view, size = channels_last(call, source, spatial)
    in_size = (1, size[0]) if one else (size[0], size[1])
    kernel = (1, weight.shape[2]) if one else (weight.shape[2], weight.shape[3])
    stride, dilation = _pair(call["stride"], spatial, 1), _pair(call["dilation"], spatial, 1)
    padding = call["padding"]
    if padding == "valid":
        own: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        own = ((total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2))
    else:
        pair = _pair(padding, spatial, 0)
        own = ((pair[0], pair[0]), (pair[1], pair[1]))
    if one:
        own, top, bottom = ((0, 0), own[1]), 0, 0
    pads = ((own[0][0] + top, own[0][1] + bottom), (own[1][0] + left, own[1][1] + right))
    out_size = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(in_size, pads, dilation, kernel, stride)
    )
    filters = weight.shape[0]
    tensors = {"weight": weight.float(), "bias": bias_tensor.float()}
    front = view.dims[: len(view.dims) - spatial - 1]
    result = _image(front, filters, out_size[1:] if one else out_size)
    elements = prod(out_size) * filters
    groups = call["groups"]
    single = kernel == (1, 1) and stride == (1, 1) and pads == ((0, 0), (0, 0)) and groups == 1
    if single and call.build.buffers[base].width == weight.shape[1]:  # a product for each position
        flat = {"weight": tensors["weight"].reshape(filters, -1), "bias": tensors["bias"]}
        return call.op_node("linear", [base], result, elements, filters, tensors=flat)
    if one:
        tensors["weight"] = tensors["weight"].unsqueeze(2)
    attrs = {
        "in_size": in_size, "kernel": kernel, "stride": stride, "padding": (pads[0][0], pads[1][0]),
        "dilation": dilation, "out_size": out_size, "groups": groups,
    }  # fmt: skip
    return call.op_node("conv", [base], result, elements, filters, tensors=tensors, attrs=attrs)


def _pool(call: Call, kind: str, node: fx.Node, geometry: dict[str, Any], one: bool) -> OpNode | str:
    base, view, size = channels_last(call, node, 1 if one else 2)
    front = len(view.dims) - len(size) - 1
    channels = view.shape[front]
    base = _by_position(call, base, view, front, channels)
    in_size = (1, size[0]) if one else (size[0], size[1])
    out_size = tuple(geometry.get("out_size", (1, 1)))
    attrs = {
        "kind": kind, "in_size": in_size, "kernel": tuple(geometry.get("kernel", in_size)),
        "stride": tuple(geometry.get("stride", (1, 1))), "padding": tuple(geometry.get("padding", (0, 0))),
        "dilation": tuple(geometry.get("dilation", (1, 1))), "out_size": out_size,
        "count_include_pad": int(geometry.get("count_include_pad", 1)),
    }  # fmt: skip
    result = _image(view.dims[:front], channels, out_size[1:] if one else out_size)
    return call.op_node("pool", [base], result, prod(out_size) * channels, channels, attrs=attrs)


@rule(aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default)
def _window_pool(call: Call) -> OpNode | str:
    target = call.node.target
    one = target in (aten.max_pool1d.default, aten.avg_pool1d.default)
    average = target in (aten.avg_pool1d.default, aten.avg_pool2d.default)
    spatial = 1 if one else 2
    kernel = _pair(call["kernel_size"], spatial, 1)
    stride = _pair(call["stride"] or call["kernel_size"], spatial, 1)
    padding = _pair(call["padding"], spatial, 0)
    dilation = (1, 1) if average else _pair(call["dilation"], spatial, 1)
    if call["ceil_mode"]:
        return "rounds its output size up"
    if average and not one and call["divisor_override"] is not None:
        return "divides by a number of its own"
    shape = call.node.meta["val"].shape
    out_size = (1, int(shape[-1])) if one else (int(shape[-2]), int(shape[-1]))
    geometry: dict[str, Any] = {
        "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "out_size": out_size,
    }  # fmt: skip
    if average:
        geometry["count_include_pad"] = int(call["count_include_pad"])
    return _pool(call, "avg" if average else "max", call["self"], geometry, one)


@rule(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)
def _adaptive(call: Call) -> OpNode | str:
    if any(s != 1 for s in call["output_size"]):
        return "pools to more than one position"
    return _pool(call, "avg", call["self"], {}, call.node.target is aten.adaptive_avg_pool1d.default)


@rule(aten.mean.dim)
def _mean(call: Call) -> OpNode | str:
    """The mean over all positions of an image or sequence."""
    view = call.view(call["self"])
    rank = len(view.dims)
    dims = sorted(d % rank for d in (call["dim"] or range(rank)))
    if call["dtype"] is not None or any(view.has_batch(d) for d in dims):
        return "is a mean over samples"
    free = [d for d in range(rank) if d not in dims and not view.has_batch(d)]
    if len(free) > 1:  # dimensions of one element are nothing to keep apart
        free = [d for d in free if view.shape[d] != 1] or free[-1:]
    if len(free) != 1 or dims != list(range(dims[0], dims[-1] + 1)) or len(dims) > 2:
        return "is a mean over something else than all positions"
    front = [d for d in range(rank) if view.has_batch(d)]
    ones = [d for d in range(rank) if d not in (*front, *free, *dims)]
    turned = layout.permute(view, [*front, *ones, *free, *dims])
    base, seen, size = _channels_last(call, turned, len(front) + len(ones))
    channels = view.shape[free[0]]
    base = _by_position(call, base, seen, len(front) + len(ones), channels)
    in_size = (1, size[0]) if len(size) == 1 else (size[0], size[1])
    attrs = {
        "kind": "avg", "in_size": in_size, "kernel": in_size, "stride": (1, 1), "padding": (0, 0),
        "dilation": (1, 1), "out_size": (1, 1), "count_include_pad": 1,
    }  # fmt: skip
    kept_dims: list[tuple[Atom, ...]] = []
    for d in range(rank):
        if view.has_batch(d):
            kept_dims.append(view.dims[d])
        elif d in free:
            kept_dims.append((Atom(channels, 1),))
        elif d in ones or call["keepdim"]:
            kept_dims.append((Atom(1, 1),))
    return call.op_node("pool", [base], View("", tuple(kept_dims)), channels, channels, attrs=attrs)


_REPEATS: dict[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


@rule(aten.pad.default, aten.constant_pad_nd.default)
def _pad(call: Call) -> OpNode | str:
    """Padding that repeats elements of the tensor is a copy of them; zeros are left to a convolution that follows."""
    mode = call["mode"] if call.node.target is aten.pad.default else "constant"
    pad = list(call["pad"])
    if mode not in _REPEATS or any(p < 0 for p in pad):
        return "is padding that no convolution takes in"
    view = call.view(call["self"])
    rank = len(view.dims)
    around = [(0, 0)] * (rank - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))[::-1]
    if any(sum(a) and view.has_batch(d) for d, a in enumerate(around)):
        return "pads samples"
    source = np.pad(layout.offsets(view), around, mode=_REPEATS[mode])
    shape = [sum(a) + size for a, size in zip(around, view.shape)]
    return call.gathered(
        view, [(Atom(s, 1),) if any(a) else dim for s, a, dim in zip(shape, around, view.dims)], source
    )
