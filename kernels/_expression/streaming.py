"""How an expression by strides goes step by step: without its dimension over time.

Constants that differ from time step to time step become tables, of which a step reads one row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, prod

import torch

from rtaccel.core.one_step import OneStep, Windows, one_step, step_windows_of, time_apart
from rtaccel.core.registry import with_role
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, at_the_latest, later, longest, not_streamable
from rtaccel.core.traits import Node, Role
from rtaccel.kernels._common.strides import dense, elements

Place = tuple[int, ...]


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    layouts = [(span.steps, span.inner or walk.width(name)) for name, span in zip(node.reads, spans)]
    dims, places = time_apart(node.attrs["dims"], node.attrs["places"], layouts)
    node.attrs = {**node.attrs, "dims": dims, "places": tuple(places)}
    found: list[OneStep | Windows] = []
    for i, (span, place) in enumerate(zip(spans, places)):
        own = _operand(node, i, span, walk, place)
        if own is None:
            raise not_streamable(f"{node.name}, which brings different time steps together")
        found.append(own)
    if len({one.dim for one in found}) != 1:
        raise not_streamable(f"{node.name}, which brings different time steps together")
    dim, shifts = found[0].dim, [span.shift + one.first for one, span in zip(found, spans)]
    if len({*shifts}) > 1 and not all(span.steps for span in spans):
        raise not_streamable(f"{node.name}, which brings different time steps together")
    shift = at_the_latest(node, shifts, walk)
    reach = [one.reach if isinstance(one, Windows) else 0 for one in found]
    spans = [replace(s, receptive_field=later(s, shift - own + past)) for s, own, past in zip(spans, shifts, reach)]
    if dim < 0 and shift != walk.length - 1:
        raise not_streamable(f"{node.name}, which reads another time step than the newest")
    span = TimeSpan(0, 0, longest(spans))
    if dim >= 0:
        span = TimeSpan(shift, dims[dim], longest(spans), prod(dims[:dim]), prod(dims[dim + 1 :]))
        if not walk.fit_rows(node.writes[0], span.inner):
            raise not_streamable(f"{node.name}, whose rows hold several time steps")
    _of_one_step(node, found, dims, dim, walk)
    return span


def _operand(node: Node, i: int, span: TimeSpan, walk: StreamWalk, place: Place) -> OneStep | Windows | None:
    """How an operand is read in a step; the node reads its newest steps where a step reads several."""
    name, dims = node.reads[i], node.attrs["dims"]
    if not span.steps:
        return OneStep(-1, walk.length - 1, place)
    inner = span.inner or walk.width(name)
    one = one_step(dims, place, span.steps, inner)
    if one is not None or span.outer != 1:
        return one
    windows = step_windows_of(dims, place, span.steps, inner)
    if windows is not None:
        node.reads[i] = walk.recent(node, name, inner, (windows.reach + 1) * inner)
    return windows


def _of_one_step(node: Node, found: Sequence[OneStep | Windows], dims: Place, dim: int, walk: StreamWalk) -> None:
    """Rewrites the node: without dimension `dim`, its constants and places in their new order."""
    left = tuple(n for d, n in enumerate(dims) if d != dim)
    reads, at = list(node.reads), [one.place for one in found]
    tensors: dict[str, torch.Tensor] = {}
    kept: list[Place] = []
    words: dict[str, str] = {}
    for i, place in enumerate(tuple(p) for p in node.attrs["places"][len(node.reads) :]):
        constant = node.tensors[f"c{i}"].reshape(-1)
        if dim < 0 or not place[1 + dim]:
            words[f"c{i}"] = f"c{len(tensors)}"
            tensors[f"c{len(tensors)}"] = constant
            kept.append((place[0], *(s for d, s in enumerate(place[1:]) if d != dim)))
            continue
        if dims[dim] != walk.length:
            raise not_streamable(f"{node.name}, constants of other time steps")
        table, where = _table(constant, dims, place, dim)
        if bool((table == table[:1]).all()):  # a number that was written out for every step
            words[f"c{i}"] = f"c{len(tensors)}"
            tensors[f"c{len(tensors)}"] = table[0]
            kept.append(where)
            continue
        if not constant.is_floating_point():
            raise not_streamable(f"{node.name}, whose whole constants differ from time step to time step")
        words[f"c{i}"] = f"x{len(reads)}"
        if (counted := _counted(node, table, walk)) is not None:
            reads.append(counted)
            at.append((0, *(0 for _ in where[1:])))
            continue
        walk.needs_context(f"{node.name}, whose constants differ from time step to time step")
        reads.append(walk.add_table(node, table))
        at.append(where)
    node.reads, node.tensors = reads, tensors
    program = tuple(re.sub(r"\bc\d+\b", lambda m: words[m[0]], line) for line in node.attrs["program"])
    if not left:
        left, at, kept = (1,), [(p[0], 0) for p in at], [(p[0], 0) for p in kept]
    node.attrs = {**node.attrs, "program": program, "dims": left, "places": (*at, *kept)}


def _counted(node: Node, table: torch.Tensor, walk: StreamWalk) -> str | None:
    """A value that follows from the number of the step, where the table is a t + b or 1 / (a t + b) for time step t: a stream
    without an end has it too. None for other tables."""
    if table.shape[1] != 1 or table.dtype != torch.float32:
        return None
    t, numbers = torch.arange(len(table), dtype=torch.float64), table[:, 0].double()
    for inverse in (False, True):
        line = 1 / numbers if inverse else numbers
        a, b = float((line[-1] - line[0]) / (len(table) - 1)), float(line[0])
        if not (isfinite(a) and isfinite(b)):
            continue
        a, b = (round(x) if abs(x - round(x)) < 1e-5 * max(1.0, abs(x)) else x for x in (a, b))
        fitted = (a * t + b).float()
        fitted = 1 / fitted if inverse else fitted
        if bool(((fitted.double() - numbers).abs() <= 2.0**-23 * numbers.abs()).all()):
            program = (f"mul x0 {float(a)}", f"add t0 {float(b - a)}", *(("reciprocal t1",) if inverse else ()))
            attrs = {"program": program, "dims": (1,), "places": ((0, 1),)}
            made = f"{node.writes[0]}:counted{float(a)},{float(b)},{int(inverse)}"
            return walk.inserted(node, with_role(Role.FORMULA).name, attrs, [walk.steps_so_far(node, 0)], made, 1)
    return None


def _table(constant: torch.Tensor, dims: Place, place: Place, dim: int) -> tuple[torch.Tensor, Place]:
    """The constant with a row for each step of dimension `dim`, and its place over the other dimensions."""
    own = [d for d, stride in enumerate(place[1:]) if stride and d != dim]
    sizes = tuple(dims[d] for d in own)
    index = elements((dims[dim], *sizes), (place[0], place[1 + dim], *(place[1 + d] for d in own)))
    strides = dict(zip(own, dense(sizes)[1:]))
    rows = torch.from_numpy(index).reshape(dims[dim], -1)
    return constant[rows], (0, *(strides.get(d, 0) for d in range(len(dims)) if d != dim))


STREAMING = Streaming(_step, any_layout=True)
