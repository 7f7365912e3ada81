"""How a reduction goes step by step: over other dimensions than time, which then goes from those that are kept; over the last
few time steps, which the stream keeps; or over all of them so far, which are joined step by step."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

from rtaccel.core.one_step import OneStep, one_step, step_windows_of, time_apart
from rtaccel.core.registry import with_role
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, later, not_streamable
from rtaccel.core.traits import Node, Role


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
    if one is not None and one.dim >= kept:
        return _over_time(node, span, walk, inner, one)
    if one is None or (one.dim < 0 and span.shift + one.first != walk.length - 1):
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
    dims, kept = node.attrs["dims"], node.attrs["kept"]
    windows = step_windows_of(dims, node.attrs["place"], span.steps, inner) if span.outer == 1 else None
    if windows is None or windows.dim >= kept:
        raise not_streamable(f"{node.name}, a reduction over time steps")
    time, reach = windows.dim, windows.reach
    made = prod(dims[time + 1 : kept])
    if not walk.fit_rows(node.writes[0], made):
        raise not_streamable(f"{node.name}, whose rows hold several time steps")
    node.reads = [walk.recent(node, node.reads[0], inner, (reach + 1) * inner)]
    node.attrs |= {"dims": dims[:time] + dims[time + 1 :], "kept": kept - 1, "place": windows.place}
    return TimeSpan(span.shift + windows.first, dims[time], later(span, reach), prod(dims[:time]), made)


EMPTY = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "amax": -inf, "amin": inf}
"""What changes nothing where it is joined."""

RUNNING = {"sum": "sum", "mean": "sum", "prod": "prod", "amax": "max", "amin": "min"}
"""The join of what came so far."""


def _over_time(node: Node, span: TimeSpan, walk: StreamWalk, inner: int, one: OneStep) -> TimeSpan:
    """Over time steps up to the newest: the last few, where they are fewer than half of the window, else all but the first."""
    dims, kept, kind = node.attrs["dims"], node.attrs["kept"], node.attrs["kind"]
    rows, first, made = dims[one.dim], span.shift + one.first, prod(dims[:kept])
    if first < 0 or first + rows != walk.length:
        raise not_streamable(f"{node.name}, a reduction over time steps that do not end with the newest")
    count, few = span.outer * inner, rows <= walk.length // 2
    begins = first if not few else span.shift if 0 < span.shift <= walk.length // 2 else 0
    place = list(one.place)
    if few:
        name = walk.newest_rows(node, node.reads[0], count, rows, begins, EMPTY[kind])
        place.insert(one.dim + 1, count)
    else:
        name = node.reads[0]
        dims = dims[: one.dim] + dims[one.dim + 1 :]
    each = prod(dims[kept:]) // (rows if few else 1)  # of a step
    attrs = {"kind": "sum" if few and kind == "mean" else kind, "dims": dims, "kept": kept, "place": tuple(place)}
    if not few or kind == "mean":
        name = walk.inserted(node, node.op, attrs, [name], f"{node.writes[0]}:step", made)
    else:
        node.reads, node.attrs = [name], attrs
        return TimeSpan(0, 0, later(span, rows - 1))
    if not few:
        name = walk.running(node, RUNNING[kind], walk.filled_until(node, name, made, begins, EMPTY[kind]), made)
    mean = kind == "mean"
    lines = (f"minimum x1 {float(rows)}", f"mul t0 {float(each)}", "div x0 t1") if few else ("div x0 x1",)
    node.op, node.reads = with_role(Role.FORMULA).name, [name, *([walk.steps_so_far(node, begins)] if mean else ())]
    places = ((0, 1), (0, 0))[: len(node.reads)]
    node.attrs = {"program": lines if mean else ("copy x0",), "dims": (made,), "places": places}
    return TimeSpan(0, 0, later(span, rows - 1) if few else -1)


STREAMING = Streaming(_step, any_layout=True)
