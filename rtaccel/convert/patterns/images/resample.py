"""Rules for interpolation: positions and weights of each output are known from the sizes alone, dimension by dimension."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.images.geometry import as_channels_last, by_position, image_of, image_view, stacked
from rtaccel.convert.patterns.images.windows import copied, part_name
from rtaccel.convert.patterns.rules import Call, rule
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

RESAMPLE = "resample"
FEW_CHANNELS = 8
"""Below so many the planes of an image are interpolated one after the other: their rows fill vectors better."""


@dataclass(frozen=True)
class Line:
    """One dimension: its size, and for each output the positions it is made of and the weight of each."""

    size: int
    index: tuple[tuple[int, ...], ...]
    weight: Tensor


def _scale(size: int, out: int, align: bool, factor: float | None) -> np.float32:
    """As ATen has it, in float32."""
    if align:
        return np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
    return np.float32(1.0 / factor) if factor is not None and factor > 0 else np.float32(size) / np.float32(out)


def _linear(size: int, out: int, align: bool, factor: float | None) -> Line:
    scale, at = _scale(size, out, align, factor), np.arange(out, dtype=np.float32)
    place = scale * at if align else np.maximum(scale * (at + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    part = np.clip(place - low.astype(np.float32), np.float32(0), np.float32(1))
    high = np.minimum(low + 1, size - 1)
    index = tuple((int(a), int(b)) for a, b in zip(low, high))
    return Line(size, index, torch.from_numpy(np.stack([np.float32(1) - part, part], 1)))


def _cubic(size: int, out: int, align: bool, factor: float | None) -> Line:
    scale, at, a = _scale(size, out, align, factor), np.arange(out, dtype=np.float32), np.float32(-0.75)
    place = scale * at if align else scale * (at + np.float32(0.5)) - np.float32(0.5)
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    part = np.clip(place - low.astype(np.float32), np.float32(0), np.float32(1)).astype(np.float32)

    def near(x: Any) -> Any:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Any) -> Any:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    weight = np.stack([far(part + 1), near(part), near(1 - part), far(2 - part)], 1).astype(np.float32)
    index = tuple(tuple(int(np.clip(i + t, 0, size - 1)) for t in range(-1, 3)) for i in low)
    return Line(size, index, torch.from_numpy(weight))


def _antialiased(call: Callable[..., Tensor]) -> Callable[..., Line]:
    """By what torch makes of each unit vector."""

    def line(size: int, out: int, align: bool, factor: float | None) -> Line:
        units = torch.eye(size).reshape(size, 1, 1, size)
        table = call(units, [1, out], align, None, factor).reshape(size, out).t()
        index: list[tuple[int, ...]] = []
        for row in table:
            used = row.nonzero()[:, 0]
            index.append(tuple(range(int(used[0]), int(used[-1]) + 1)) if len(used) else (0,))
        taps = max(len(own) for own in index)
        weight = torch.zeros(out, taps)
        for j, own in enumerate(index):
            weight[j, : len(own)] = table[j, list(own)]
        return Line(size, tuple(index), weight)

    return line


def _nearest(call: Any) -> Callable[..., Line]:
    """By what torch makes of a line of numbers."""

    def line(size: int, out: int, align: bool, factor: float | None) -> Line:
        numbers = torch.arange(size, dtype=torch.float32).reshape(1, 1, size)
        at = call(numbers, [out], factor).reshape(-1).long()
        return Line(size, tuple((int(i),) for i in at), torch.ones(out, 1))

    return line


_NEAREST: dict[Any, Callable[..., Line]] = {
    aten.upsample_nearest2d: _nearest(aten.upsample_nearest1d.default),
    aten.upsample_nearest3d: _nearest(aten.upsample_nearest1d.default),
    aten._upsample_nearest_exact2d: _nearest(aten._upsample_nearest_exact1d.default),
    aten._upsample_nearest_exact3d: _nearest(aten._upsample_nearest_exact1d.default),
}
_LINES: dict[Any, Callable[..., Line]] = {
    aten.upsample_linear1d: _linear, aten.upsample_bilinear2d: _linear, aten.upsample_trilinear3d: _linear,
    aten.upsample_bicubic2d: _cubic, aten._upsample_bilinear2d_aa: _antialiased(aten._upsample_bilinear2d_aa.default),
    aten._upsample_bicubic2d_aa: _antialiased(aten._upsample_bicubic2d_aa.default),
} | _NEAREST  # fmt: skip
_SCALES = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}


@rule(*(overload for packet in _LINES for overload in (packet.default, packet.vec)))
def _interpolated(call: Call) -> OpNode | str:
    target: Any = call.node.target
    own = _LINES[target.overloadpacket]
    by_factors = target.overloadpacket.vec is target
    rank = len(call.shape) - 2
    view = image_view(call, call["input" if by_factors else "self"], rank)
    given = call["scale_factors"] if by_factors else [call[name] for name in _SCALES[rank]]
    factors = given or [None] * rank
    nearest = target.overloadpacket in _NEAREST
    align = False if nearest else call["align_corners"]
    sizes, outs = view.shape[2:], tuple(call.shape[2:])
    lines = [None if n == m else own(n, m, align, f) for n, m, f in zip(sizes, outs, factors)]
    channels = view.shape[1]
    planes = rank > 1 and (channels < FEW_CHANNELS or any(user.op == "output" for user in call.node.users))
    if nearest and not planes:
        return "is a copy of rows"
    if not any(lines):
        lines[-1] = Line(sizes[-1], tuple((i,) for i in range(sizes[-1])), torch.ones(sizes[-1], 1))
    if planes:
        return _by_planes(call, view, lines, outs)
    base, seen, _ = as_channels_last(call, view, 1)
    base = by_position(call, base, seen, 1, channels)
    return _along(
        call, base, [stacked(view, 1), *sizes], [None, *lines], channels, image_of(view.dims[:1], channels, outs)
    )


def _by_planes(call: Call, view: View, lines: list[Line | None], outs: tuple[int, ...]) -> OpNode:
    """Along the last dimension with all others side by side, then along them with the last dimension as the row."""
    channels, sizes = view.shape[1], list(view.shape[2:])
    images, last = stacked(view, 1), lines[-1]
    elements = images * channels * prod(sizes)
    shape = (images, channels, *sizes[:-1], outs[-1])
    result = call.build._dense_like(image_of(view.dims[:1], channels, outs))
    if last is not None:
        aside = elements // sizes[-1]
        turned = layout.permute(view, [len(sizes) + 1, *range(len(sizes) + 1)])
        target = call.build._dense_like(turned)
        base = copied(call, "turned", turned, target, elements, aside)
        name, attrs, tensors = _stage(call, last, 1, 1)
        call.build.buffers[name] = Buffer(outs[-1] * aside, aside)
        _add(call, base, name, attrs, tensors)
        wide = image_of(view.dims[:1], channels, (*sizes[:-1], outs[-1]))
        target = call.build._dense_like(wide)
        source = layout.permute(call.build._dense_like(layout.permute(wide, _last_first(wide))), _first_last(wide))
        view = View(name, source.dims)
    if not any(lines[:-1]):
        return _turned(call, view, result)
    base = copied(call, "planes", view, call.build._dense_like(view), images * channels * prod(shape[2:]), outs[-1])
    return _along(call, base, list(shape[:-1]), [None, None, *lines[:-1]], outs[-1], result)


def _last_first(view: View) -> list[int]:
    return [len(view.dims) - 1, *range(len(view.dims) - 1)]


def _first_last(view: View) -> list[int]:
    return [*range(1, len(view.dims)), 0]


def _turned(call: Call, view: View, result: View) -> OpNode:
    found = iteration(result, [view, result])
    assert found is not None, "both are dense"
    attrs = {"parts": ((found.dims, *found.places),), "fill": 0.0}
    elements = prod(a.size for dim in result.dims for a in dim if not a.batch)
    copy = with_role(Role.COPY).name
    return call.op_node(copy, [view.base], result, elements, call.row_of(result), attrs=attrs)


def _along(call: Call, base: str, sizes: list[int], lines: list[Line | None], width: int, result: View) -> OpNode:
    """One stage for each dimension, the last one first: those before it are then long runs. sizes: of a dense value in rows of
    `width`."""
    todo = [d for d in reversed(range(len(sizes))) if lines[d] is not None]
    for d in todo:
        line = lines[d]
        assert line is not None
        name, attrs, tensors = _stage(call, line, prod(sizes[:d]), prod(sizes[d + 1 :]))
        sizes[d] = len(line.index)
        if d == todo[-1]:
            break
        call.build.buffers[name] = Buffer(prod(sizes) * width, width)
        _add(call, base, name, attrs, tensors)
        base = name
    return call.op_node(RESAMPLE, [base], result, prod(sizes) * width, width, tensors=tensors, attrs=attrs)


def _stage(call: Call, line: Line, outer: int, inner: int) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    return (
        part_name(call, call.node.name, "line"),
        {"outer": outer, "inner": inner, "index": line.index},
        {"weight": line.weight.contiguous()},
    )


def _add(call: Call, base: str, name: str, attrs: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    node = OpNode(RESAMPLE, call.node, module_name(call.node), [base], [name], tensors=tensors, attrs=attrs)
    call.build.op_nodes.append(node)
