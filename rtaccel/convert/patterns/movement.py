"""Rules for calls that move elements: parts put together, padding, constant indices."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.graph.small import held
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, general
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

NARROW = 8
"""Numbers in a row that fills less than half of a vector."""
LARGE = 16_384
"""Numbers of a value from which on its size in memory matters."""


class Assembly:
    """The parts of one call while they are collected."""

    def __init__(self, call: Call, like: View) -> None:
        """like: the result lies in the order of its dimensions."""
        self.call = call
        self.result = call.ordered(call.shape, like)
        self.parts: list[tuple[str | Tensor, View, View]] = []

    def add(self, value: Any, target: View | None) -> None:
        """A computed tensor or a constant into a part of the result."""
        if target is None:
            raise Refused("has a part that no strides describe")
        constant = self.call.repeated(value)
        if value.meta["val"].dtype != self.call.node.meta["val"].dtype:
            raise Refused("joins tensors of several dtypes")
        if constant is not None:
            self.parts.append((self._constant(constant), layout.dense("", constant.shape, None), target))
        else:
            view = self.call.stored(value)
            self.parts.append((view.base, view, target))

    def _constant(self, constant: Tensor) -> Tensor:
        """As values are stored: int32 lies in int64, truth values and bytes lie in float32."""
        return constant.detach().to(torch.int64 if self.is_whole else torch.float32).cpu().reshape(-1)

    @property
    def is_whole(self) -> bool:
        return self.call.node.meta["val"].dtype in (torch.int64, torch.int32)

    def around(self, constant: Tensor, outer: View, dim: int, start: int, end: int) -> None:
        """What lies before and behind a range of one dimension of a part of the result, from a constant of that part's size."""
        size = outer.shape[dim]
        for first, last in ((0, start), (end, size)):
            if first < last:
                target = layout.slice_of(outer, dim, first, last, 1)
                if target is None:
                    raise Refused("has a part that no strides describe")
                cut = constant.narrow(dim, first, last - first) if constant.shape[dim] != 1 else constant
                self.parts.append((self._constant(cut), layout.dense("", cut.shape, None), target))

    def node(self, fill: float = 0.0) -> OpNode:
        call = self.call
        reads: list[str] = []
        tensors: dict[str, Tensor] = {}
        computed: list[Any] = []
        constant: list[Any] = []
        for source, view, target in self.parts:
            found = iteration(target, [view, target])
            if found is None and isinstance(source, str):
                view = call.build.packed(view)
                source = view.base
                found = iteration(target, [view, target])
            if found is None:
                raise Refused("layout: its parts have no common strides")
            part = (found.dims, found.places[0], found.places[1])
            if isinstance(source, str):
                reads.append(source)
                computed.append(part)
            else:
                tensors[f"c{len(tensors)}"] = source
                constant.append(part)
        if not reads:
            raise Refused("copies nothing from the inputs")
        attrs = {"parts": (*computed, *constant), "fill": fill}
        elements = prod(a.size for dim in self.result.dims for a in dim if not a.batch)
        width = call.row_of(self.result)
        if width < NARROW and elements >= LARGE and not call.build.windowed:
            width = 0  # rows are stored as whole vectors: a reader that needs such narrow ones still gets them
        return call.op_node(
            with_role(Role.COPY).name, reads, self.result, elements, width, True, tensors=tensors, attrs=attrs
        )


@general(aten.cat.default)
def _cat(call: Call) -> OpNode | str:
    parts = [p for p in call["tensors"] if not any(isinstance(s, int) and s == 0 for s in p.meta["val"].shape)]
    views = [call.stored(p) for p in parts if call.repeated(p) is None]
    if not views:
        return "joins no computed tensors"
    made = Assembly(call, views[0])
    dim, start = call["dim"] % len(call.shape), 0
    if made.result.has_batch(dim):
        return "joins samples"
    for part in parts:
        size = int(part.meta["val"].shape[dim])
        made.add(part, layout.slice_of(made.result, dim, start, start + size, 1))
        start += size
    return made.node()


@general(aten.constant_pad_nd.default, aten.pad.default)
def _pad(call: Call) -> OpNode | str:
    if call.node.target is aten.pad.default and call["mode"] != "constant":
        return "pads by another mode than constant"
    view = call.stored(call["self"])
    made = Assembly(call, view)
    target, pad, rank, fill = made.result, list(call["pad"]), len(view.dims), call["value"] or 0
    fill = held(fill, call.node.meta["val"].dtype)
    for i, (before, after) in enumerate(zip(pad[::2], pad[1::2])):
        dim = rank - 1 - i
        if before == after == 0:
            continue
        if view.has_batch(dim):
            return "pads samples"
        size = view.shape[dim]
        if made.is_whole and fill:
            made.around(
                torch.full([1] * rank, int(fill)), target, dim, max(before, 0), target.shape[dim] - max(after, 0)
            )
        cut = call.build.cut(view, dim, max(-before, 0), size - max(-after, 0))
        place = layout.slice_of(target, dim, max(before, 0), target.shape[dim] - max(after, 0), 1)
        if cut is None or place is None:
            return "pads a dimension that no strides describe"
        view, target = cut, place
    made.parts.append((view.base, view, target))
    return made.node(0.0 if made.is_whole else float(fill))


@general(aten.slice_scatter.default, aten.select_scatter.default)
def _scatter(call: Call) -> OpNode | str:
    """The tensor, and over a part of it another one."""
    whole = call["self"]
    given = call.stored(whole) if call.repeated(whole) is None else call.stored(call["src"])
    dim = call["dim"] % len(call.shape)
    if len(given.dims) != len(call.shape):  # a part without the dimension that it is written at
        given = View(given.base, (*given.dims[:dim], (Atom(call.shape[dim], 0),), *given.dims[dim:]), given.offset)
    made = Assembly(call, given)
    if made.result.has_batch(dim):
        if call.node.target is aten.slice_scatter.default and _everything(call):
            made.add(call["src"], made.result)
            return made.node()
        return "writes to some samples"
    if call.node.target is aten.select_scatter.default:
        part = layout.select(made.result, dim, call["index"])
    else:
        start, stop, step = slice(call["start"], call["end"], call["step"]).indices(made.result.shape[dim])
        part = layout.slice_of(made.result, dim, start, stop, step)
    constant = call.repeated(whole)
    if constant is not None and constant.is_floating_point() and bool((constant == constant.flatten()[0]).all()):
        made.add(call["src"], part)  # around it is what everything was filled with
        return made.node(float(constant.flatten()[0]))
    if constant is None:
        made.add(whole, made.result)
        made.add(call["src"], part)
        return made.node()
    if call.node.target is aten.select_scatter.default:
        start, stop, step = call["index"] % made.result.shape[dim], call["index"] % made.result.shape[dim] + 1, 1
    if step != 1 or constant.dim() != len(call.shape):
        return "writes into a constant"  # constants come last
    made.add(call["src"], part)
    made.around(constant, made.result, dim, start, stop)
    return made.node()


def _everything(call: Call) -> bool:
    """Whether a slice leaves nothing out, however many there are."""
    end = call["end"]
    return call["start"] in (None, 0) and (end is None or end > 1 << 40) and call["step"] == 1


@general(aten.roll.default)
def _roll(call: Call) -> OpNode | str:
    view, dims = call.stored(call["self"]), call["dims"]
    if len(dims) != len(call["shifts"]) or any(view.has_batch(d % len(view.dims)) for d in dims):
        return "rolls samples, or all elements as one row"
    made = Assembly(call, view)
    pieces = [(view, made.result)]
    for shift, dim in zip(call["shifts"], dims):
        dim %= len(view.dims)
        size = view.shape[dim]
        shift %= size
        cut: list[tuple[View, View]] = []
        for source, target in pieces:
            for first, last, to in ((0, size - shift, shift), (size - shift, size, 0)):
                if first == last:
                    continue
                a, b = (
                    call.build.cut(source, dim, first, last),
                    layout.slice_of(target, dim, to, to + last - first, 1),
                )
                if a is None or b is None:
                    return "rolls a dimension that no strides describe"
                cut.append((a, b))
        pieces = cut
    made.parts = [(a.base, a, b) for a, b in pieces]
    return made.node()


@general(aten.clone.default)
def _clone(call: Call) -> OpNode:
    """What the model returns of its own inputs, as a copy."""
    view = call.stored(call["self"])
    made = Assembly(call, view)
    made.parts.append((view.base, view, made.result))
    return made.node()


# -- constant indices --------------------------------------------------------------------------------------------------


def by_constant(call: Call) -> OpNode | str:
    """aten.index.Tensor and aten.index_select where the indices are constants: a copy."""
    view = call.stored(call["self"])
    if call.node.target is aten.index_select.default:
        dim = call["dim"] % len(view.dims)
        indices = [None] * dim + [call["index"]]
    else:
        indices = list(call["indices"])
    constants = [None if i is None else call.constant(i) for i in indices]
    if any(i is not None and c is None for i, c in zip(indices, constants)):
        return "takes elements by an index that is computed"
    if any(c is not None and view.has_batch(d) for d, c in enumerate(constants)):
        return "takes some samples"
    batch = view.batch_dim
    if batch is None and call.build.batch is not None:
        return "layout: its samples are joined with another dimension"
    picked = tuple(slice(None) if c is None else c.cpu().numpy() for c in constants)
    sizes = [(c, view.shape[d]) for d, c in enumerate(constants) if c is not None and c.dtype != torch.bool]
    if any(bool((c < -size).any() or (c >= size).any()) for c, size in sizes):
        return "takes elements that its value does not have"
    index = layout.offsets(view)[picked]
    dims: list[tuple[Atom, ...]] = [(Atom(size, 1),) for size in index.shape]
    if (
        batch is not None
    ):  # torch and NumPy alike put indices that are apart in front: then it is no longer where it was
        if batch > 0 or (len(indices) and index.shape[0] != 1):
            return "layout: takes elements in front of the samples"
        dims[0] = view.dims[batch]
    return call.gathered(view, dims, index)


_NEAREST: dict[Any, Any] = {
    aten.upsample_nearest1d: aten.upsample_nearest1d, aten.upsample_nearest2d: aten.upsample_nearest1d,
    aten.upsample_nearest3d: aten.upsample_nearest1d, aten._upsample_nearest_exact1d: aten._upsample_nearest_exact1d,
    aten._upsample_nearest_exact2d: aten._upsample_nearest_exact1d,
    aten._upsample_nearest_exact3d: aten._upsample_nearest_exact1d,
}  # fmt: skip


@general(*(overload for packet in _NEAREST for overload in (packet.default, packet.vec)))
def _nearest(call: Call) -> OpNode | str:
    """By an index for each dimension, which is what the call makes of a line of numbers."""
    target: Any = call.node.target
    by_factors, rank = target.overloadpacket.vec is target, len(call.shape) - 2
    view = call.stored(call["input" if by_factors else "self"])
    given = call["scale_factors"] if by_factors else None
    if any(view.has_batch(d) for d in range(1, rank + 2)):
        return "layout: its samples are not its first dimension"
    places = layout.offsets(view)
    repeats: View | None = view
    for dim in range(2, rank + 2):
        size, out = view.shape[dim], call.shape[dim]
        factor = [given[dim - 2]] if given else []
        line = torch.arange(size, dtype=torch.float32).reshape(1, 1, -1)
        index = _NEAREST[target.overloadpacket].default(line, [out], *factor).long().reshape(-1).numpy()
        places = np.take(places, index, axis=dim)
        times = out // size
        if repeats is not None and times * size == out and (index == np.arange(out) // times).all():
            dims = (*repeats.dims[:dim], (*repeats.dims[dim], Atom(times, 0)), *repeats.dims[dim + 1 :])
            repeats = View(view.base, dims, view.offset)
        else:
            repeats = None
    result = call.ordered(call.shape, view)
    ordered = np.empty(places.size, dtype=np.int64)
    ordered[layout.offsets(result).reshape(-1)] = places.reshape(-1)
    width = call.row_of(result) or 1
    attrs = call.build._rearrangement(view.base, ordered, width)
    if "index" in attrs and repeats is not None:  # strides instead of a table of elements
        made = Assembly(call, view)
        made.parts.append((view.base, repeats, made.result))
        return made.node()
    return call.op_node(with_role(Role.GATHER).name, [view.base], result, ordered.size, width, attrs=attrs)
