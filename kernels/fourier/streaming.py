"""How a transform of overlapping lines goes step by step: over the newest elements."""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.step_windows import step_windows
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    span, x = spans[0], node.reads[0]
    inner = span.inner or walk.width(x)
    *sizes, length = node.attrs["dims"]
    offset, *strides, along = node.attrs["place"]
    over = [(n, stride) for n, stride in zip(sizes, strides) if n > 1]
    if not span.steps or span.outer != 1 or len(over) != 1 or along < 1:
        raise not_streamable(f"{node.name}, a transform of something else than a sequence of lines over time")
    (lines, stride), reach = over[0], (length - 1) * along + 1
    windows = step_windows(inner, stride, offset - span.lead, reach)
    if windows is None or lines < windows.per_step:
        raise not_streamable(f"{node.name}, a transform every {stride} elements, where a time step has {inner}")
    node.reads = [walk.recent(node, x, inner, windows.count)]
    node.attrs = {**node.attrs, "dims": (windows.per_step, length), "place": (windows.offset, stride, along)}
    return windows.span(span, inner, lines, walk.width(node.writes[0]))


STREAMING = Streaming(_step, any_layout=True, edges=True)
