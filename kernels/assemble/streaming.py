"""What a copy by parts is in a stream: zeros before the first time step, or the parts of a single one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from rtaccel.core.one_step import one_step, time_apart
from rtaccel.core.row_traits import (
    SameRows,
    Streaming,
    StreamWalk,
    TimeSpan,
    at_the_latest,
    later,
    longest,
    not_streamable,
)
from rtaccel.core.traits import Node
from rtaccel.kernels._common.strides import dense, elements

Place = tuple[int, ...]


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan | SameRows:
    found = _padded(node, spans, walk) or _padded_apart(node, spans, walk) or _moved(node, spans, walk)
    return found or _by_parts(node, spans, walk)


def _moved(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan | None:
    """One value behind zeros, cut at its end: what it was some steps ago."""
    span, parts = spans[0], node.attrs["parts"]
    inner = span.inner or walk.width(node.reads[0])
    if len(parts) != 1 or len(spans) != 1 or not span.steps or span.outer != 1 or span.lead or span.rest:
        return None
    (dims, source, target), size = parts[0], walk.elements(node.writes[0])
    steps, left = divmod(target[0], inner)
    if node.attrs.get("fill", 0.0) or left or not steps or size != span.steps * inner:
        return None
    strides = dense(dims)[1:]
    if prod(dims) != size - target[0] or source != (0, *strides) or target[1:] != strides:
        return None
    made = span.shift > 0
    name = walk.since(node, node.reads[0], span.shift) if made else node.reads[0]
    node.reads = [walk.delayed(node, name, steps)]
    node.attrs = {**node.attrs, "parts": (((inner,), (0, 1), (0, 1)),)}
    return TimeSpan(span.shift, span.steps, later(span, steps), 1, span.inner)


def _padded(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> SameRows | None:
    """All of one value behind zeros; None for anything else."""
    span, parts = spans[0], node.attrs["parts"]
    inner = span.inner or walk.width(node.reads[0])
    whole = span.lead + span.steps * inner + span.rest
    alone = len(parts) == len(spans) == 1 and node.attrs.get("fill", 0.0) == 0.0 and span.steps and span.outer == 1
    strides = dense(parts[0][0])[1:]
    if not alone or prod(parts[0][0]) != whole or parts[0][1] != (0, *strides) or parts[0][2][1:] != strides:
        return None
    before = parts[0][2][0]
    if before and span.shift > 0:
        node.reads = [walk.since(node, node.reads[0], span.shift)]
    steps, lead = divmod(span.lead + before, inner)
    made = span.steps + steps
    rest = walk.elements(node.writes[0]) - lead - made * inner
    more, rest = divmod(rest, inner)  # zeros behind it
    return SameRows(TimeSpan(span.shift - steps, made + more, span.receptive_field, 1, span.inner, lead, rest))


def _padded_apart(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> SameRows | None:
    """Time steps of several lines, each behind as many steps of zeros; None for anything else."""
    span, parts = spans[0], node.attrs["parts"]
    inner, size = span.inner or walk.width(node.reads[0]), walk.elements(node.writes[0])
    alone = len(parts) == len(spans) == 1 and node.attrs.get("fill", 0.0) == 0.0 and span.steps and span.outer > 1
    if not alone or span.lead or span.rest or size % (span.outer * inner):
        return None
    made, before = size // (span.outer * inner), parts[0][2][0] // inner
    source, target = (elements(parts[0][0], place).reshape(-1) for place in parts[0][1:])
    line, at = np.divmod(source, span.steps * inner)
    if not np.array_equal(np.sort(source), np.arange(span.outer * span.steps * inner)) or not np.array_equal(
        target, line * made * inner + before * inner + at
    ):
        return None
    if before and span.shift > 0:
        node.reads = [walk.since(node, node.reads[0], span.shift)]
    return SameRows(TimeSpan(span.shift - before, made, span.receptive_field, span.outer, inner))


def _by_parts(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    """Parts that put each time step together of the same one of every value."""
    refused = not_streamable(f"{node.name}, which puts together what is of different time steps")
    if node.tensors or not all(span.steps and not span.lead for span in spans):
        raise refused
    size, parts = walk.elements(node.writes[0]), []
    found: list[tuple[int, int, int, int]] = []
    for part, name, span in zip(node.attrs["parts"], node.reads, spans):
        own = _part(part, span, span.inner or walk.width(name), size)
        if own is None:
            raise refused
        parts.append(own[0])
        found.append(own[1])
    if len({own[1:] for own in found}) != 1:
        raise refused
    shifts, (_, steps, outer, inner) = [own[0] for own in found], found[0]
    shift = at_the_latest(node, shifts, walk)
    spans = [replace(s, receptive_field=later(s, shift - own)) for s, own in zip(spans, shifts)]
    node.attrs = {**node.attrs, "parts": tuple(parts)}
    return TimeSpan(shift, steps, longest(spans), outer, inner)


def _part(
    part: tuple[Place, Place, Place], span: TimeSpan, inner: int, size: int
) -> tuple[tuple[Place, Place, Place], tuple[int, int, int, int]] | None:
    """The part of one time step, and (shift, steps, outer, inner) of what it is put into."""
    dims, (source, target) = time_apart(part[0], part[1:], [(span.steps, inner)])
    over = [d for d, (n, stride) in enumerate(zip(dims, source[1:])) if n > 1 and stride == inner]
    if len(over) != 1 or (span.rest and span.outer != 1):
        return None
    steps, made = dims[over[0]], target[1 + over[0]]
    if made < 1 or size % (steps * made):
        return None
    x, y = one_step(dims, source, span.steps, inner), one_step(dims, target, steps, made)
    if x is None or y is None or x.dim != y.dim != -1 or y.first:
        return None
    left = tuple(n for d, n in enumerate(dims) if d != x.dim)
    return (left, x.place, y.place), (span.shift + x.first, steps, size // (steps * made), made)


STREAMING = Streaming(_step, any_layout=True, edges=True)
