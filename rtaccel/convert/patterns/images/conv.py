"""Rules for convolutions, pooling and padding: channels-last values with a geometry."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom
from rtaccel.convert.frontend.nodes import OpNode, zeros_like_rows
from rtaccel.convert.patterns.images.geometry import image_of, image_view, per_dimension, stacked
from rtaccel.convert.patterns.images.windows import Windows, convolution
from rtaccel.convert.patterns.rules import Call, rule


def unpadded(call: Call, node: fx.Node, rank: int) -> tuple[fx.Node, list[tuple[int, int]]]:
    """The tensor behind zero padding of its last `rank` dimensions, and how much of it there is before and behind each."""
    none = [(0, 0)] * rank
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return node, none
    inner = Call(call.build, node)
    pad = list(inner["pad"])
    if node.target is aten.pad.default and inner["mode"] != "constant":
        return node, none
    if inner["value"] not in (None, 0, 0.0) or len(pad) > 2 * rank or any(p < 0 for p in pad):
        return node, none
    pad += [0] * (2 * rank - len(pad))
    return inner["self"], list(zip(pad[::2], pad[1::2]))[::-1]


_CONVOLUTIONS: dict[Any, int] = {
    aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3,
    aten.conv1d.padding: 1, aten.conv2d.padding: 2, aten.conv3d.padding: 3,
}  # fmt: skip


@rule(*_CONVOLUTIONS)
def _conv(call: Call) -> OpNode | str:
    target: Any = call.node.target
    rank = _CONVOLUTIONS[target]
    weight, bias = call.constant(call["weight"]), call["bias"]
    if weight is None:
        return ("" if isinstance(call["groups"], int) else "layout: ") + "its weight is computed, not a parameter"
    bias_tensor = zeros_like_rows(weight) if bias is None else call.constant(bias)
    if bias_tensor is None:
        return "its bias is computed, not a parameter"
    kernel, padding = tuple(weight.shape[2:]), call["padding"]
    stride, dilation = per_dimension(call["stride"], rank, 1), per_dimension(call["dilation"], rank, 1)
    if isinstance(padding, str):
        total = [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilation, kernel)]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        pads = [(p, p) for p in per_dimension(padding, rank, 0)]
    source, around = unpadded(call, call["input"], rank)
    pads = [(a + c, b + d) for (a, b), (c, d) in zip(pads, around)]
    view = image_view(call, source, rank)
    front = len(view.dims) - rank - 1
    sizes = view.shape[front + 1 :]
    out = tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(sizes, pads, dilation, kernel, stride))
    windows = Windows(kernel, stride, dilation, tuple(p[0] for p in pads), out)
    op, base, tensors, attrs = convolution(call, view, weight, bias_tensor, windows, call["groups"])
    filters = weight.shape[0]
    elements = stacked(view, front) * prod(out) * filters
    result = image_of(view.dims[:front], filters, out)
    return call.op_node(op, [base], result, elements, filters, tensors=tensors, attrs=attrs)


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
