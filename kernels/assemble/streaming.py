"""What padding is in a stream: zeros before the first time step."""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.core.row_traits import SameRows, Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> SameRows:
    span, parts = spans[0], node.attrs["parts"]
    inner = span.inner or walk.width(node.reads[0])
    whole = span.steps * inner + span.lead
    padded = len(parts) == len(spans) == 1 and node.attrs.get("fill", 0.0) == 0.0 and span.steps and span.outer == 1
    if not padded or parts[0][:2] != ((whole,), (0, 1)) or parts[0][2][1:] != (1,):
        raise not_streamable(f"{node.name}, which puts a value together of more than zeros and all time steps so far")
    before = parts[0][2][0]
    steps, lead = divmod(span.lead + before, inner)
    return SameRows(TimeSpan(span.shift - steps, span.steps + steps, span.receptive_field, 1, span.inner, lead))


STREAMING = Streaming(_step, any_layout=True, leads=True)
