"""How a linear recurrence goes step by step: its last result is the state."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from rtaccel.core.one_step import OneStep, one_step
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.traits import Node
from rtaccel.kernels._common.strides import dense, elements

Place = tuple[int, ...]


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    dims, places = tuple(node.attrs["dims"]), [tuple(p) for p in node.attrs["places"]]
    refused = not_streamable(f"{node.name}, a recurrence along something else than all time steps so far")
    along, width = len(dims) - 1, walk.width(node.writes[0])
    inner = places[2][-1]
    own = one_step(dims, places[2], dims[-1], inner)
    if own is None or own.dim != along or dims[-1] != walk.length:
        raise refused
    if not width or inner % width:
        width = inner
        if not walk.fit_rows(node.writes[0], inner):
            raise refused
    found: list[Place] = []
    for name, span, place in zip(node.reads, spans, places[2 - len(node.reads) :]):
        one: OneStep | None = one_step(dims, place, span.steps, span.inner or walk.width(name)) if span.steps else None
        if one is None or one.dim != along or span.shift + one.first != 0:
            raise refused
        found.append((*one.place, 0))
    if "a" in node.tensors:
        values = node.tensors["a"].reshape(-1)[torch.from_numpy(elements(dims, places[0]))].reshape(-1, dims[-1])
        if not torch.equal(values, values[:, :1].expand_as(values)):
            walk.needs_context(f"{node.name}, whose factors differ from time step to time step")
            node.reads, node.tensors = [walk.add_table(node, values.T.contiguous()), *node.reads], {}
        else:
            node.tensors = {"a": values[:, 0].contiguous()}
        found.insert(0, (*dense(dims[:-1]), 0))
    total = prod(dims[:-1])
    wide = int(node.attrs.get("wide", 0))
    state = walk.add_state(f"{node.writes[0]}:h", total // width, width, "int64" if wide else "float32")
    node.reads, node.writes = [*node.reads, state], [node.writes[0], state]
    node.attrs = {
        "dims": (*dims[:-1], 1),
        "places": (*found, (*own.place, 0)),
        "stream": 1,
        **({"wide": 1} if wide else {}),
    }
    return TimeSpan(0, dims[-1], -1, total // inner, inner)


STREAMING = Streaming(_step, any_layout=True)
