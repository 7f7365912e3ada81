"""Rules for convolutions, pooling and padding: channels-last values with a geometry."""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np
import torch
from torch import fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom
from rtaccel.convert.frontend.nodes import OpNode, zeros_like_rows
from rtaccel.convert.patterns.images import channels_last, image_of, pair, stacked
from rtaccel.convert.patterns.rules import Call, rule

aten = torch.ops.aten


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
    if stacked(view, len(view.dims) - spatial - 1) > 1:
        return "layout: has images side by side in one sample"
    in_size = (1, size[0]) if one else (size[0], size[1])
    kernel = (1, weight.shape[2]) if one else (weight.shape[2], weight.shape[3])
    stride, dilation = pair(call["stride"], spatial, 1), pair(call["dilation"], spatial, 1)
    padding = call["padding"]
    if padding == "valid":
        own: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        own = ((total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2))
    else:
        own_pair = pair(padding, spatial, 0)
        own = ((own_pair[0], own_pair[0]), (own_pair[1], own_pair[1]))
    if one:
        own, top, bottom = ((0, 0), own[1]), 0, 0
    pads = ((own[0][0] + top, own[0][1] + bottom), (own[1][0] + left, own[1][1] + right))
    out_size = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(in_size, pads, dilation, kernel, stride)
    )
    filters = weight.shape[0]
    tensors = {"weight": weight.float(), "bias": bias_tensor.float()}
    front = view.dims[: len(view.dims) - spatial - 1]
    result = image_of(front, filters, out_size[1:] if one else out_size)
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
