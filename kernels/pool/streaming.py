"""How pooling along time goes step by step: over the newest rows."""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.step_windows import step_windows
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    a, span, x = node.attrs, spans[0], node.reads[0]
    width = walk.width(x)
    rows = (span.inner or width) // (width or 1)
    found = _regular(a.get("windows"), a.get("divisors"))
    if found is None or not span.steps or span.outer != 1 or not width or span.lead % width:
        raise not_streamable(f"{node.name}, which pools all time steps at once, or with padding")
    window, divisor, stride, count = found
    windows = step_windows(rows, stride, window[0] - span.lead // width, window[-1] - window[0] + 1)
    if windows is None or count < windows.per_step:
        raise not_streamable(f"{node.name}, pooling of stride {stride} where a time step has {rows} rows")
    first = [at - window[0] + windows.offset for at in window]
    node.reads = [walk.recent(node, x, rows * width, windows.count * width)]
    own = tuple(tuple(at + i * stride for at in first) for i in range(windows.per_step))
    node.attrs = {**a, "in_size": (windows.count,), "windows": (own,), "divisors": ((divisor,) * windows.per_step,)}
    return windows.span(span, rows, count, width)


def _regular(
    windows: Sequence[Sequence[Sequence[int]]] | None, divisors: Sequence[Sequence[float]] | None
) -> tuple[Sequence[int], float, int, int] | None:
    """(the first window, its divisor, the stride, the number) of windows along one dimension that are all alike; else None."""
    if windows is None or divisors is None or len(windows) != 1:
        return None
    own = windows[0]
    stride = own[1][0] - own[0][0] if len(own) > 1 else 0
    alike = all(
        len(w) == len(own[0]) and all(b == a + i * stride for a, b in zip(own[0], w)) for i, w in enumerate(own)
    )
    return (own[0], divisors[0][0], stride, len(own)) if alike and stride > 0 and len({*divisors[0]}) == 1 else None


STREAMING = Streaming(_step, any_layout=True, edges=True)
