"""How a scan over time goes step by step: what it has joined so far is the state."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.core.one_step import one_step, time_apart
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    refused = not_streamable(f"{node.name}, a scan along something else than all time steps so far")
    span = spans[0]
    if node.attrs["kind"] == "logsumexp":
        raise not_streamable(f"{node.name}, a logsumexp over time steps")
    if not span.steps:
        raise refused
    inner = span.inner or walk.width(node.reads[0])
    x, y = (tuple(p) for p in node.attrs["places"])
    if node.attrs["last"]:
        y = (*y, 0)
    dims, (x, y) = time_apart(node.attrs["dims"], (x, y), [(span.steps, inner)])
    along = len(dims) - 1
    one = one_step(dims, x, span.steps, inner)
    if one is None or one.dim != along or span.shift + one.first != 0 or dims[-1] != walk.length:
        raise refused
    kept = dims[:-1] or (1,)
    place = one.place if dims[:-1] else (one.place[0], 0)
    if node.attrs["last"]:  # the newest result alone: a value without time steps
        made, found = (y[:-1] if dims[:-1] else (y[0], 0)), TimeSpan(0, 0, -1)
    else:
        own = one_step(dims, y, dims[-1], y[-1])
        if own is None or own.dim != along or not walk.fit_rows(node.writes[0], y[-1]):
            raise refused
        made = own.place if dims[:-1] else (own.place[0], 0)
        found = TimeSpan(0, dims[-1], -1, prod(dims[:-1]) // y[-1], y[-1])
    state = walk.add_state(f"{node.writes[0]}:joined", prod(kept), 2, "int64")
    node.reads, node.writes = [*node.reads, state], [node.writes[0], state]
    attrs = {"dims": (*kept, 1), "places": ((*place, 0), (*made, 0)), "last": 0, "stream": 1}
    node.attrs = {**node.attrs, **attrs}
    return found


STREAMING = Streaming(_step, any_layout=True)
