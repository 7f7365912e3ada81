"""How an order goes step by step: along other dimensions than time, which then goes from those that lines differ in."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.core.one_step import one_step, time_apart
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    span, refused = spans[0], not_streamable(f"{node.name}, an order of time steps")
    if not span.steps:
        return span
    inner, (x, y) = span.inner or walk.width(node.reads[0]), (tuple(p) for p in node.attrs["places"])
    *lines, along = node.attrs["dims"]
    over, (x_lines, y_lines) = time_apart(lines, (x[:-1], y[:-1]), [(span.steps, inner)])
    dims = (*over, along)
    one = one_step(dims, (*x_lines, x[-1]), span.steps, inner)
    if one is None or one.dim == len(over) or (one.dim < 0 and span.shift + one.first != walk.length - 1):
        raise refused
    node.attrs = {**node.attrs, "dims": dims, "places": (one.place, (*y_lines, y[-1]))}
    if one.dim < 0:
        return TimeSpan(0, 0, span.receptive_field)
    steps, made = over[one.dim], y_lines[1 + one.dim]
    own = one_step((*over, node.attrs["k"]), (*y_lines, y[-1]), steps, made)
    if own is None or own.dim != one.dim or not all(walk.fit_rows(name, made) for name in node.writes):
        raise refused
    node.attrs |= {"dims": tuple(n for d, n in enumerate(dims) if d != one.dim), "places": (one.place, own.place)}
    outer = prod(over) * node.attrs["k"] // (steps * made)
    return TimeSpan(span.shift + one.first, steps, span.receptive_field, outer, made)


STREAMING = Streaming(_step, any_layout=True)
