"""Rules for pooling: windows of every kind over one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, hints, module_name
from rtaccel.convert.patterns.images.geometry import (
    as_channels_last,
    by_position,
    channels_last,
    image_of,
    per_dimension,
    stacked,
)
from rtaccel.convert.patterns.images.windows import part_name
from rtaccel.convert.patterns.reduce import reduced
from rtaccel.convert.patterns.rules import Call, rule

POOL = "pool"
FEWEST_SIDE_BY_SIDE = 5
"""Positions for which a sum along them is worth more than one over channels."""
MIN_AROUND = 64
"""Positions of a mean for which their copy takes longer than sums of short lines."""
MAX_ENTRIES = 1 << 22
"""Of a table of windows: beyond this it would cost more memory than it is worth."""


@dataclass(frozen=True)
class Axis:
    """Windows along one dimension of `size` positions, and what each contributes to the divisor of an average."""

    size: int
    windows: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]

    @classmethod
    def same(cls, size: int) -> Axis:
        return cls(size, tuple((i,) for i in range(size)), (1,) * size)

    @property
    def taps(self) -> int:
        return max(len(w) for w in self.windows)


def _strided(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, padded: bool) -> Axis:
    """padded: an average counts the padding, but not what lies beyond it."""
    starts = [o * stride - padding for o in range(out)]
    windows = tuple(tuple(i for i in range(s, s + kernel * dilation, dilation) if 0 <= i < size) for s in starts)
    counts = [min(s + kernel, size + padding) - s if padded else len(w) for s, w in zip(starts, windows)]
    return Axis(size, windows, tuple(counts))


def _adaptive(size: int, out: int) -> Axis:
    windows = tuple(tuple(range(o * size // out, -((o + 1) * -size // out))) for o in range(out))
    return Axis(size, windows, tuple(len(w) for w in windows))


def _shape(call: Call) -> list[int]:
    meta = call.node.meta["val"]
    meta = meta if isinstance(meta, Tensor) else meta[0]
    return hints(meta.shape)


def _pooled(call: Call, kind: str, node: fx.Node, axes: Sequence[Axis], splits: bool = True) -> OpNode | str:
    if any(not window for axis in axes for window in axis.windows):
        return "has a window wholly in the padding"
    base, view, _ = channels_last(call, node, len(axes))
    front = len(view.dims) - len(axes) - 1
    base = by_position(call, base, view, front, view.shape[front])
    images = stacked(view, front)
    if images > 1:
        axes = [Axis.same(images), *axes]
    return _stages(call, kind, base, view, front, axes, splits)


def _stages(
    call: Call, kind: str, base: str, view: View, front: int, axes: Sequence[Axis], splits: bool
) -> OpNode | str:
    """One stage, or one for each dimension where windows overlap so much that it reads less in all."""
    channels, outs = view.shape[front], [len(a.windows) for a in axes]
    passes = [list(axes)]
    wide = [d for d, a in enumerate(axes) if a != Axis.same(a.size)]
    apart = 0.0
    for d in wide:
        apart += prod(outs[: d + 1]) * prod(a.size for a in axes[d + 1 :]) * axes[d].taps
    together = prod(outs) * prod(a.taps for a in axes)
    if splits and len(wide) > 1 and apart * 1.5 < together:
        passes = []
        for d in wide:
            done = [Axis.same(outs[i]) if i < d else Axis.same(axes[i].size) for i in range(len(axes))]
            passes.append([*done[:d], axes[d], *done[d + 1 :]])
    if any(prod(len(a.windows) * a.taps for a in given) > MAX_ENTRIES for given in passes):
        return f"has windows with more than {MAX_ENTRIES} elements in all"
    for given in passes[:-1]:
        name, steps = part_name(call, base, "pooled"), prod(len(a.windows) for a in given)
        call.build.buffers[name] = Buffer(steps * channels, channels)
        attrs = _attributes(kind, given)
        call.build.op_nodes.append(OpNode(POOL, call.node, module_name(call.node), [base], [name], attrs=attrs))
        base = name
    result = image_of(view.dims[:front], channels, outs[len(outs) - len(view.dims) + front + 1 :])
    return _give(call, base, result, prod(outs) * channels, channels, _attributes(kind, passes[-1]))


def _attributes(kind: str, axes: Sequence[Axis]) -> dict[str, Any]:
    attrs: dict[str, Any] = {"kind": kind, "in_size": tuple(a.size for a in axes)}
    return attrs | {"windows": tuple(a.windows for a in axes), "divisors": tuple(a.divisors for a in axes)}


def _give(call: Call, base: str, result: View, elements: int, width: int, attrs: dict[str, Any]) -> OpNode | str:
    if isinstance(call.node.meta["val"], Tensor):
        return call.op_node(POOL, [base], result, elements, width, attrs=attrs)
    # The call gives indices beside it, which nobody reads.
    name = call.give(call.node, result, elements, width)
    call.build.parts[name] = (call.build.views[name],)
    return OpNode(POOL, call.node, module_name(call.node), [base], [name], attrs=attrs)


def _reads_indices(node: fx.Node) -> bool:
    return not isinstance(node.meta["val"], Tensor) and any(user.args[1] != 0 for user in node.users)


_MAXIMA: dict[Any, int] = {
    aten.max_pool1d.default: 1, aten.max_pool2d.default: 2, aten.max_pool3d.default: 3,
    aten.max_pool1d_with_indices.default: 1, aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d_with_indices.default: 3,
}  # fmt: skip
_AVERAGES: dict[Any, int] = {aten.avg_pool1d.default: 1, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}


@rule(*_MAXIMA, *_AVERAGES)
def _window_pool(call: Call) -> OpNode | str:
    target: Any = call.node.target
    average = target in _AVERAGES
    spatial = (_AVERAGES if average else _MAXIMA)[target]
    if _reads_indices(call.node):
        return "gives the indices of its largest elements"
    kernel = per_dimension(call["kernel_size"], spatial, 1)
    stride = per_dimension(call["stride"], spatial, kernel)
    padding = per_dimension(call["padding"], spatial, 0)
    dilation = [1] * spatial if average else per_dimension(call["dilation"], spatial, 1)
    padded = average and bool(call["count_include_pad"])
    view, outs = call.view(call["self"]), _shape(call)[-spatial:]
    sizes = view.shape[-spatial:]
    axes = [_strided(*given) for given in zip(sizes, outs, kernel, stride, padding, dilation, [padded] * spatial)]
    override = call["divisor_override"] if average and spatial > 1 else None
    if override is not None:
        axes = [Axis(a.size, a.windows, (override if d == 0 else 1,) * len(a.windows)) for d, a in enumerate(axes)]
    # With a divisor of its own, sums over one dimension may lie outside the range of what they are made of.
    return _pooled(call, "avg" if average else "max", call["self"], axes, splits=override is None)


@rule(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default,
      aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default, aten.adaptive_max_pool1d.default,
      aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)  # fmt: skip
def _adaptive_pool(call: Call) -> OpNode | str:
    if _reads_indices(call.node):
        return "gives the indices of its largest elements"
    spatial = len(call["output_size"])
    view, outs = call.view(call["self"]), _shape(call)[-spatial:]
    places = range(len(view.dims) - spatial, len(view.dims))
    whole = all(n == 1 for n in outs) and isinstance(call.node.meta["val"], Tensor)
    if whole and not call.build.windowed and _side_by_side(view, places):
        return reduced(call, "mean", call["self"], places, True)
    axes = [_adaptive(size, out) for size, out in zip(view.shape[-spatial:], outs)]
    kind = "avg" if isinstance(call.node.meta["val"], Tensor) else "max"
    return _pooled(call, kind, call["self"], axes)


def _side_by_side(view: View, dims: Sequence[int]) -> bool:
    """Whether positions lie densely, with the channels before them: a reduction then reads them where they are."""
    atoms = sorted((a for d in dims for a in view.dims[d] if a.size != 1), key=lambda a: a.stride)
    dense = 1
    for atom in atoms:
        if atom.stride != dense:
            return False
        dense *= atom.size
    return dense >= FEWEST_SIDE_BY_SIDE


def _around(view: View, dims: Sequence[int], free: int) -> bool:
    """Whether many positions lie on both sides of the channels, in lines: a copy would take longer than all sums."""
    atoms = [a for d in dims for a in view.dims[d] if a.size != 1]
    if prod(a.size for a in atoms) < MIN_AROUND:
        return False
    line = prod(a.size for a in atoms if a.stride == 1)
    kept = max((a.stride for a in view.dims[free] if a.size != 1), default=0)
    return line >= FEWEST_SIDE_BY_SIDE and any(a.stride > kept for a in atoms)


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
    if stacked(layout.permute(view, front), len(front)) > 1:
        return "has images side by side in one sample"
    if call.build.windowed or _side_by_side(view, dims) or _around(view, dims, free[0]):
        return "is a mean over positions that lie side by side"
    if any(len(layout.merged(view.dims[d])) > 1 for d in dims):
        return "is a mean over positions that are no dimension of the image"
    ones = [d for d in range(rank) if d not in (*front, *free, *dims)]
    turned = layout.permute(view, [*front, *ones, *free, *dims])
    base, seen, size = as_channels_last(call, turned, len(front) + len(ones))
    channels = view.shape[free[0]]
    base = by_position(call, base, seen, len(front) + len(ones), channels)
    kept_dims: list[tuple[Atom, ...]] = []
    for d in range(rank):
        if view.has_batch(d):
            kept_dims.append(view.dims[d])
        elif d in free:
            kept_dims.append((Atom(channels, 1),))
        elif d in ones or call["keepdim"]:
            kept_dims.append((Atom(1, 1),))
    attrs = _attributes("avg", [_adaptive(n, 1) for n in size])
    return call.op_node(POOL, [base], View("", tuple(kept_dims)), channels, channels, attrs=attrs)
