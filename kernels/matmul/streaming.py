"""How a product of computed matrices goes step by step: one for each time step, all alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.core.one_step import OneStep, one_step
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, longest, not_streamable
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    """Time is one of the dimensions that products are made for, in both operands; a parameter is the same for all. Or it is the
    rows of one matrix that a parameter multiplies, or its columns."""
    refused = not_streamable(f"{node.name}, a product over time steps")
    batch, i, j, k = node.attrs["sizes"]
    if (alone := _one_matrix(node, spans[0], walk)) is not None:
        return alone
    inner_dims, places = {"a": (i, k), "w": (k, j)}, dict(zip("aw", node.attrs["places"]))
    computed = [name for name in "aw" if name not in node.tensors]
    dims, first = set(), set()
    for name, read, span in zip(computed, node.reads, spans):
        whole = (*batch, *inner_dims[name])
        one: OneStep | None = OneStep(-1, walk.length - 1, tuple(places[name]))
        if span.steps:
            one = one_step(whole, places[name], span.steps, span.inner or walk.width(read))
        if one is None or one.dim >= len(batch):
            raise refused
        dims.add(one.dim)
        first.add(span.shift + one.first)
        places[name] = one.place
    if len(dims) != 1 or len(first) != 1:
        raise refused
    (dim,), (shift,) = dims, first
    if dim < 0:
        if shift != walk.length - 1:
            raise refused
        node.attrs = {**node.attrs, "places": (places["a"], places["w"])}
        return TimeSpan(0, 0, longest(spans))
    for name in node.tensors:
        if places[name][1 + dim]:
            raise refused
        places[name] = tuple(s for at, s in enumerate(places[name]) if at != 1 + dim)
    inner, width = prod(batch[dim + 1 :]) * i * j, walk.width(node.writes[0])
    if not width or inner % width:
        raise refused
    left = (*batch[:dim], *batch[dim + 1 :])
    node.attrs = {**node.attrs, "sizes": (left, i, j, k), "places": (places["a"], places["w"])}
    return TimeSpan(shift, batch[dim], longest(spans), prod(batch[:dim]), inner)


def _one_matrix(node: Node, span: TimeSpan, walk: StreamWalk) -> TimeSpan | None:
    """Of a parameter and a matrix whose rows, or columns, are time steps; else None."""
    batch, i, j, k = node.attrs["sizes"]
    if len(node.reads) != 1 or not span.steps or not walk.width(node.writes[0]):
        return None
    rows = "w" in node.tensors  # of a: time is i, and j where w is computed
    dims, places = (*batch, *((i, k) if rows else (k, j))), [tuple(p) for p in node.attrs["places"]]
    time = len(batch) if rows else len(batch) + 1
    one = one_step(dims, places[0 if rows else 1], span.steps, span.inner or walk.width(node.reads[0]))
    if one is None or one.dim != time:
        return None
    own = (*one.place[: 1 + time], 0, *one.place[1 + time :])  # a dimension of one
    node.attrs = {**node.attrs, "sizes": (batch, 1, j, k) if rows else (batch, i, 1, k)}
    node.attrs["places"] = (own, places[1]) if rows else (places[0], own)
    outer, inner = (prod(batch), j) if rows else (prod(batch) * i, 1)
    return TimeSpan(span.shift + one.first, dims[time], span.receptive_field, outer, inner)


STREAMING = Streaming(_step, any_layout=True)
