"""How computed indices are read step by step: those of a time step choose among constants, or among numbers of that step."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.core.one_step import one_step, time_apart
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, longest, not_streamable
from rtaccel.core.traits import Node

Place = tuple[int, ...]


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    refused = not_streamable(f"{node.name}, which chooses among time steps")
    if not any(span.steps for span in spans):
        return TimeSpan(0, 0, longest(spans))
    if len({(span.shift, span.steps) for span in spans}) != 1 or any(span.outer != 1 for span in spans):
        raise refused
    names, steps = ["x", *(f"i{k}" for k in range(len(node.attrs["sizes"])))], spans[0].steps
    computed = [name for name in names if name not in node.tensors]
    inner = {name: span.inner or walk.width(own) for name, own, span in zip(computed, node.reads, spans)}
    dims, kept, places = _apart(node, computed, names, [(steps, inner[name]) for name in computed])
    found = {name: one_step(dims, places[name], steps, inner[name]) for name in computed}
    over = {None if one is None else one.dim for one in found.values()}
    (dim, *others) = over
    if others or dim is None or not 0 <= dim < kept or dims[dim] != steps or not _within(node, inner.get("x")):
        raise refused
    if any(places[name][1 + dim] for name in names if name in node.tensors):
        raise not_streamable(f"{node.name}, constants of other time steps")
    left, made = tuple(n for d, n in enumerate(dims) if d != dim), prod(dims[dim + 1 :])
    if not walk.fit_rows(node.writes[0], made):
        raise not_streamable(f"{node.name}, whose rows hold several time steps")
    at = [one.place if (one := found.get(name)) is not None else _without(places[name], dim) for name in names]
    node.attrs = {
        **node.attrs,
        "dims": left or (1,),
        "kept": kept - 1,
        "places": tuple(p if left else (p[0], 0) for p in at),
    }
    return TimeSpan(spans[0].shift, steps, longest(spans), prod(dims[:dim]), made)


def _apart(
    node: Node, computed: Sequence[str], names: Sequence[str], layouts: Sequence[tuple[int, int]]
) -> tuple[Place, int, dict[str, Place]]:
    """The iteration with dimensions cut where time begins and ends: of lines, and of what each of them gives."""
    order = [*computed, *(name for name in names if name in node.tensors)]
    given = dict(zip(names, (tuple(p) for p in node.attrs["places"])))
    dims, kept = tuple(node.attrs["dims"]), int(node.attrs["kept"])
    parts = [
        time_apart(dims[by], [(0, *given[name][1:][by]) for name in order], layouts)
        for by in (slice(0, kept), slice(kept, None))
    ]
    places = {name: (given[name][0], *parts[0][1][i][1:], *parts[1][1][i][1:]) for i, name in enumerate(order)}
    return (*parts[0][0], *parts[1][0]), len(parts[0][0]), places


def _within(node: Node, inner: int | None) -> bool:
    """Whether all that indices reach of a computed x lies in one time step."""
    reach = sum((size - 1) * abs(stride) for size, stride in zip(node.attrs["sizes"], node.attrs["strides"]))
    return inner is None or reach < inner


def _without(place: Place, dim: int) -> Place:
    return (place[0], *(stride for d, stride in enumerate(place[1:]) if d != dim))


STREAMING = Streaming(_step, any_layout=True)
