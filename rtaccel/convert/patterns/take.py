"""Rules for calls that take elements by computed indices: gather, indexing, embeddings, bags of them."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.indexing import ONE, Indexed, Operands, cut_to, in_runs, index_view, kept_of
from rtaccel.convert.patterns.movement import by_constant
from rtaccel.convert.patterns.rules import Call, Refused, general


def _taken(call: Call, x: Any, view: View, indices: list[tuple[Any, View]], runs: list[Atom], negative: bool,
           operands: Operands) -> OpNode:  # fmt: skip
    """view, and those of indices: against the result, with a dimension of 1 where indices select."""
    aligned = [view, *(v for _, v in indices)]
    result = call.build._dense_like(View("", tuple(call.leading(aligned, call.shape))))
    found = iteration(result, aligned)
    if found is None:
        raise Refused("layout: its samples lie in several dimensions")
    operands.add("x", x, view)
    for k, (value, index) in enumerate(indices):
        operands.add(f"i{k}", value, index)
    if not operands.reads:
        raise Refused("takes nothing of the inputs")
    attrs = {
        "dims": found.dims, "kept": kept_of(found, range(1, len(aligned))), "places": found.places,
        "sizes": tuple(r.size for r in runs), "strides": tuple(r.stride for r in runs), "negative": int(negative),
    }  # fmt: skip
    return call.op_node("take", operands.reads, result, prod(found.dims), call.row_of(result), True,
                        tensors=operands.tensors, attrs=attrs)  # fmt: skip


@general(aten.gather.default, aten.take_along_dim.default)
def _gather(call: Call) -> OpNode | str:
    operands = Operands(call)
    along = call.node.target is aten.take_along_dim.default
    if along and call["dim"] is None:
        return "takes elements of all dimensions as one"
    view, index = operands.see(call["self"]), index_view(operands, call["indices" if along else "index"])
    if not view.dims or not index.dims:
        return "is of one number"
    dim = call["dim"] % len(view.dims)
    constant = call.repeated(call["self"]) is not None  # an index may then be of other samples at each place
    if view.has_batch(dim) or (index.has_batch(dim) and not constant):
        return "takes some samples"
    view, runs = in_runs(call, operands, view, [dim])
    indices = [(call["indices" if along else "index"], index)]
    return _taken(call, call["self"], cut_to(view, call.shape, dim), indices, runs, False, operands)


def _copied(call: Call) -> OpNode | None:
    """By constant indices, where that is one copy."""
    try:
        found = by_constant(call)
    except Refused:
        return None
    return found if isinstance(found, OpNode) else None


@general(aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_select.default)
def _taken_by_index(call: Call) -> OpNode | str:
    indices = [call["index"]] if call.node.target is aten.index_select.default else call["indices"]
    if call.repeated(call["self"]) is None and all(i is None or call.constant(i) is not None for i in indices):
        copied = _copied(call)
        if copied is not None:
            return copied
    operands = Operands(call)
    view = operands.see(call["self"])
    if not view.dims:
        return "is of one number"
    selects = call.node.target is aten.index_select.default
    dim = call["dim"] % len(view.dims) if selects else 0
    given = [*[None] * dim, call["index"]] if selects else list(call["indices"])
    found = Indexed(call, operands, view, given)
    return _taken(call, call["self"], found.view, found.indices, found.runs, not selects, operands)


@general(aten.embedding.default)
def _embedding(call: Call) -> OpNode | str:
    """Of indices that are computed: those of the input have an operator of their own, which checks them beforehand."""
    operands = Operands(call)
    view = operands.see(call["weight"])
    if len(view.dims) != 2 or (view.base and any(view.has_batch(d) for d in range(2))):
        return "has no table of rows"
    found = Indexed(call, operands, view, [call["indices"]])
    return _taken(call, call["weight"], found.view, found.indices, found.runs, False, operands)


_BAGS = ("sum", "mean", "amax")
"""How the rows of a bag are joined, by the argument `mode`."""


@general(aten.embedding_bag.padding_idx)
def _bag(call: Call) -> OpNode | str:
    """Bags that are all of one size, as the rows of a matrix of indices are: rows taken, and joined."""
    parts = {user.args[1]: user for user in call.node.users}
    table = call.repeated(call["weight"])
    if set(parts) != {0} or table is None or table.dtype != torch.float32:
        return "gives more than its bags, or its table is computed"
    if call["per_sample_weights"] is not None or call["padding_idx"] not in (None, -1) or call["include_last_offset"]:
        return "weighs or leaves out some of its rows"
    operands = Operands(call)
    index = index_view(operands, call["indices"])
    width, size = table.shape[1], _bag_size(call, index)
    inner = [a for a in index.dims[0] if not a.batch]
    rows = View(index.base, (index.dims[0], ONE), index.offset)
    result = call.build._dense_like(View("", (index.dims[0], (Atom(width, 1),))))
    found = iteration(result, [View("", (ONE, (Atom(width, 1),))), rows])
    if found is None or prod(a.size for a in inner) % size:
        return "layout: its samples are joined with another dimension"
    operands.add("x", call["weight"], View("", ()))
    operands.add("i0", call["indices"], rows)
    if not operands.reads:
        return "takes nothing of the inputs"
    taken, count = f"{call.node.name}:rows", prod(found.dims)
    attrs = {
        "dims": found.dims, "kept": kept_of(found, [1]), "places": found.places, "sizes": (table.shape[0],),
        "strides": (width,), "negative": 0,
    }  # fmt: skip
    call.build.buffers[taken] = Buffer(count, width)
    call.build.op_nodes.append(
        OpNode("take", call.node, module_name(call.node), operands.reads, [taken], operands.tensors, attrs)
    )
    bags = count // width // size
    samples = tuple(a for a in index.dims[0] if a.batch)
    seen = View("", ((*samples, *((Atom(bags, width),) if bags > 1 or not samples else ())), (Atom(width, 1),)))
    joined = {
        "kind": _BAGS[call["mode"]], "dims": (bags, width, size), "kept": 2, "place": (0, size * width, 1, width),
    }  # fmt: skip
    name = call.give(parts[0], seen, bags * width, width)
    return OpNode("reduce", call.node, module_name(call.node), [taken], [name], attrs=joined)


def _bag_size(call: Call, index: View) -> int:
    """How many rows each bag has. Raises Refused where that is not known to be the same for all."""
    offsets = call["offsets"]
    known = call.constant(offsets)
    count = index.shape[0]
    if known is not None:
        starts = known.reshape(-1).tolist()
        size = count // max(len(starts), 1)
        if size < 1 or starts != list(range(0, count, size)) or any(a.batch for a in index.dims[0]):
            raise Refused("has bags of several sizes")
        return size
    if not isinstance(offsets, fx.Node) or offsets.target is not aten.arange.start_step:
        raise Refused("has bags whose sizes are computed")
    steps = Call(call.build, offsets)
    size, inside = steps["step"], prod(a.size for a in index.dims[0] if not a.batch)
    if steps["start"] != 0 or not isinstance(size, int) or size < 1 or inside % size or len(index.dims) != 1:
        raise Refused("has bags whose sizes are computed")
    end = offsets.meta["val"].shape[0]
    if int(end if isinstance(end, int) else end.node.hint) * size != count:
        raise Refused("has bags whose sizes are computed")
    return size
