"""How attention goes step by step: the keys and values of the past stay, and the newest query asks them.

It does so where no query sees a later key, and where what a mask adds depends on how old a key is and on nothing else. Such are a
causal mask, a causal window, and biases by distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, longest, not_streamable
from rtaccel.core.traits import Node

LOWEST = float("-inf")

HIDDEN = -1e30
"""What a mask adds to a key that is not seen, where it is a number: its exponential is zero beside any other."""


def _by_age(node: Node, steps: int) -> Tensor | None:
    """What the mask adds to a key that is so many time steps old, for all heads or each: [1 | heads, steps]; None for nothing."""
    causal, mask = bool(node.attrs.get("causal")), node.tensors.get("mask")
    if mask is None:
        if not causal:
            raise not_streamable(f"{node.name}, whose attention sees time steps still to come: it has no causal mask")
        return None
    rows = mask.reshape(-1, steps)
    if len(rows) == 1:
        rows = rows.expand(steps, steps)
    each = rows.reshape(-1, steps, steps)
    later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    each = torch.where((each <= HIDDEN) & (each > HIDDEN).any(-1, keepdim=True), LOWEST, each)
    if not causal and not bool((each[:, later] == LOWEST).all()):
        raise not_streamable(f"{node.name}, whose attention sees time steps still to come: its mask is not causal")
    each = _by_distance(each)
    found = each[:, -1].flip(-1)
    ages = (torch.arange(steps)[:, None] - torch.arange(steps)).clamp(min=0)
    if not torch.equal(found[:, ages].masked_fill(later, 0.0), each.masked_fill(later, 0.0)):
        raise not_streamable(f"{node.name}, whose mask is not by the age of a key alone")
    return found if bool(found.any()) else None


def _by_distance(each: Tensor) -> Tensor:
    """The same mask, with 0 for a query's own key: a softmax does not feel a number that is added to all scores. ALiBi by the
    number of a key becomes one by its age so."""
    own = each.double().diagonal(dim1=1, dim2=2)[..., None]
    moved = (each.double() - own).float()
    return moved if bool(own.isfinite().all()) and not bool((own == own[:, :1]).all()) else each


def _of_newest(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> bool:
    """Whether the newest time step alone asks: one query, which may see every key."""
    a, (q, *kept) = node.attrs, spans
    alone = not q.steps and len(spans) == 3 and walk.elements(node.writes[0]) == int(a["heads"]) * int(a["head_dim"])
    return alone and len({(s.shift, s.steps) for s in kept}) == 1 and kept[0].steps > 1 and not a.get("causal")


def _of_one(node: Node, steps: int) -> Tensor | None:
    """What the mask of one query adds to a key by its age: [1 | heads, steps]; None for nothing."""
    mask = node.tensors.get("mask")
    if mask is None:
        return None
    found = mask.reshape(-1, steps).flip(-1)
    return found if bool(found.any()) else None


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    a, span, newest = node.attrs, spans[-1], _of_newest(node, spans, walk)
    alike = len({(s.shift, s.steps) for s in spans[newest:]}) == 1 and span.steps and len(spans) == 3
    if not alike or a.get("sequences", 1) != 1 or walk.newest(span) != span.steps - 1:
        raise not_streamable(f"{node.name}, attention to something else than the time steps so far")
    bias, places = _of_one(node, span.steps) if newest else _by_age(node, span.steps), span.steps
    if bias is not None:
        visible = (bias > LOWEST).any(0).nonzero()
        places = int(visible[-1]) + 1 if len(visible) else 1
        bias = bias[:, :places] if bool(bias[:, :places].any()) else None
    if places == span.steps:
        walk.needs_context(f"{node.name}, whose attention looks back without an end")
    y, width = node.writes[0], int(a.get("kv_heads", a["heads"])) * int(a["head_dim"])
    sizes = {"keys": (width, places), "values": (places, width), "count": (1, 1)}
    states = [walk.add_state(f"{y}:{name}", *size) for name, size in sizes.items()]
    node.op = "cached_attention"
    node.reads, node.writes = [*node.reads[:3], *states], [y, *states]
    node.attrs = {k: v for k, v in a.items() if k not in ("causal", "sequences")}
    node.tensors = {} if bias is None else {"bias": bias.contiguous()}
    past = longest(spans)
    past = past if past < 0 else past + places - 1
    return TimeSpan(0, 0, past) if newest else TimeSpan(span.shift, span.steps, past)


STREAMING = Streaming(_step)
