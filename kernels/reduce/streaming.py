"""How a reduction goes step by step: over other dimensions than time, which then goes from those that are kept; or over the last
few time steps, which the stream keeps."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.core.one_step import one_step, time_apart
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, later, not_streamable
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    dims, kept, span = tuple(node.attrs["dims"]), int(node.attrs["kept"]), spans[0]
    if not span.steps:
        return span
    inner, (offset, *strides) = span.inner or walk.width(node.reads[0]), node.attrs["place"]
    parts = ((dims[:kept], strides[:kept]), (dims[kept:], strides[kept:]))
    apart = [time_apart(own, [(0, *by)], [(span.steps, inner)]) for own, by in parts]
    kept, dims = len(apart[0][0]), (*apart[0][0], *apart[1][0])
    place = (offset, *apart[0][1][0][1:], *apart[1][1][0][1:])
    node.attrs = {**node.attrs, "dims": dims, "kept": kept, "place": place}
    one = one_step(dims, place, span.steps, inner)
    if one is None or one.dim >= kept or (one.dim < 0 and span.shift + one.first != walk.length - 1):
        return _over_windows(node, span, walk, inner)
    node.attrs = {**node.attrs, "place": one.place}
    if one.dim < 0:
        return TimeSpan(0, 0, span.receptive_field)
    node.attrs |= {"dims": dims[: one.dim] + dims[one.dim + 1 :], "kept": kept - 1}
    made = prod(dims[one.dim + 1 : kept])
    if not walk.fit_rows(node.writes[0], made):
        raise not_streamable(f"{node.name}, whose rows hold several time steps")
    return TimeSpan(span.shift + one.first, dims[one.dim], span.receptive_field, prod(dims[: one.dim]), made)


def _over_windows(node: Node, span: TimeSpan, walk: StreamWalk, inner: int) -> TimeSpan:
    """Each result of some time steps up to one: the mean or the deviation of the last few."""
    dims, kept, (offset, *strides) = node.attrs["dims"], node.attrs["kept"], node.attrs["place"]
    refused = not_streamable(f"{node.name}, a reduction over time steps")
    over = [d for d, (n, stride) in enumerate(zip(dims, strides)) if n > 1 and stride and stride % inner == 0]
    along = [d for d in over if d < kept]
    reach = sum((dims[d] - 1) * strides[d] // inner for d in over if d >= kept)
    within = offset % inner + sum((n - 1) * s for d, (n, s) in enumerate(zip(dims, strides)) if d not in over)
    if span.outer != 1 or len(along) != 1 or strides[along[0]] != inner or min(strides) < 0 or within >= inner:
        raise refused
    (time,) = along
    first, made = offset // inner, prod(dims[time + 1 : kept])
    if first + dims[time] + reach > span.steps or not reach or not walk.fit_rows(node.writes[0], made):
        raise refused
    node.reads = [walk.recent(node, node.reads[0], inner, (reach + 1) * inner)]
    place = (offset % inner, *(stride for d, stride in enumerate(strides) if d != time))
    node.attrs |= {"dims": dims[:time] + dims[time + 1 :], "kept": kept - 1, "place": place}
    return TimeSpan(span.shift + first + reach, dims[time], later(span, reach), prod(dims[:time]), made)


STREAMING = Streaming(_step, any_layout=True)
