"""How a convolution along time goes step by step: with a ring of past rows, or over the newest rows where a step has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, later, longest, not_streamable
from rtaccel.core.stage import Stage, Value
from rtaccel.core.step_windows import step_windows
from rtaccel.core.traits import Node


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    a, span, width = node.attrs, spans[0], walk.width(node.reads[0])
    if (
        a.get("out_rows")
        or a["in_size"][0] != 1
        or a["kernel"][0] != 1
        or not span.steps
        or span.outer != 1
        or not width
    ):
        raise not_streamable(f"{node.name}, a convolution over something else than time steps")
    if span.shift > 0 and (a["padding"][1] or span.lead):
        node.reads[0] = walk.since(node, node.reads[0], span.shift)
    rows, rest = divmod(span.inner or width, width)
    by_window = not rest and rows > 1
    own = _over_newest(node, span, rows, walk) if by_window else _with_ring(node, span, walk)
    spans = [own, *(replace(s, receptive_field=later(s, own.shift - s.shift)) for s in spans[1:])]
    for i, other in enumerate(spans[1:], len(node.reads) - len(spans) + 1):
        if other.shift < own.shift:
            node.reads[i] = walk.delayed(node, node.reads[i], own.shift - other.shift)
    if any(other.shift > own.shift or (other.steps, other.rest) != (own.steps, own.rest) for other in spans[1:]):
        raise not_streamable(f"{node.name}, whose residual is of other time steps")
    past = longest(spans)
    return TimeSpan(own.shift, own.steps, past, 1, own.inner, 0, own.rest)


def _with_ring(node: Node, span: TimeSpan, walk: StreamWalk) -> TimeSpan:
    """A row a step. What its taps read of the past lies in a ring, one row for each step that they reach back and one for the
    newest."""
    a, width = node.attrs, walk.width(node.reads[0])
    stride = a["stride"][1]
    if stride > 1 and span.inner in (0, width):
        what = f"{node.name}, a convolution of stride {stride}, for each time step of 1 rows"
        raise not_streamable(
            f"{what}: pass {stride}, an example [streams, rows, features] or [streams, features, rows]"
        )
    if a["stride"] != (1, 1) or span.inner not in (0, width) or span.lead:
        raise not_streamable(f"{node.name}, a convolution over rows that are no time steps")
    taps, dilation = a["kernel"][1], a["dilation"][1]
    reach = (taps - 1) * dilation
    x, y = node.reads[0], node.writes[0]
    ring = walk.add_state(f"{y}:ring", reach + 1, width)
    node.reads, node.writes = [x, ring, *node.reads[1:]], [y, ring]
    node.attrs = {k: a[k] for k in ("groups", "activation", "activation_parameter") if k in a}
    node.attrs |= {"stream": 1, "kernel": (1, taps), "dilation": (1, dilation)}
    past = -1 if span.receptive_field < 0 else span.receptive_field + reach
    return TimeSpan(span.shift + reach - a["padding"][1], a["out_size"][1], past)


def _over_newest(node: Node, span: TimeSpan, rows: int, walk: StreamWalk) -> TimeSpan:
    """Several rows a step: an ordinary convolution over the newest rows."""
    a, x = node.attrs, node.reads[0]
    width, stride, out = walk.width(x), a["stride"][1], a["out_size"][1]
    length = (a["kernel"][1] - 1) * a["dilation"][1] + 1
    zeros, rest = divmod(span.lead, width)
    windows = None if rest else step_windows(rows, stride, -a["padding"][1] - zeros, length)
    if windows is None or out < windows.per_step:
        raise not_streamable(f"{node.name}, a convolution of stride {stride}, for each time step of {rows} rows")
    node.reads = [walk.recent(node, x, rows * width, windows.count * width), *node.reads[1:]]
    node.attrs = {**a, "in_size": (1, windows.count), "padding": (0, 0), "out_size": (1, windows.per_step)}
    return windows.span(span, rows, out, walk.width(node.writes[0]))


def _by_tick(stage: Stage, tick: Value) -> Stage:
    inputs = (*stage.inputs[:2], tick, *stage.inputs[2:])
    return replace(stage, inputs=inputs, attrs={**stage.attrs, "ticks": 1}) if stage.attrs.get("stream") else stage


STREAMING = Streaming(_step, keeps_input=True, any_layout=True, edges=True, by_tick=_by_tick)
