"""Rules for calls whose indices are computed: elements taken by them, and elements put where they say."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import Iteration, iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.movement import by_constant
from rtaccel.convert.patterns.rules import Call, Refused, general

aten = torch.ops.aten
ONE = (Atom(1, 1),)
INDEX_DTYPES = (torch.int64, torch.int32)


class Operands:
    """The operands of one call in order: inputs of the stage, and constants by name."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.reads: list[str] = []
        self.tensors: dict[str, Tensor] = {}

    def see(self, value: Any, dtype: torch.dtype | None = None) -> View:
        """Where an operand lies; a constant has no base."""
        constant = self.call.repeated(value)
        if constant is None:
            return self.call.stored(value)
        return layout.dense("", constant.shape, None)

    def add(self, name: str, value: Any, view: View) -> None:
        """In the order in which the stage has them."""
        if view.base:
            self.reads.append(view.base)
            return
        if isinstance(value, fx.Node):
            found = self.call.repeated(value)
            assert found is not None
        else:
            found = torch.tensor(value)
        self.tensors[name] = self.stored(found)

    def stored(self, constant: Tensor) -> Tensor:
        dtype = torch.int64 if constant.dtype in INDEX_DTYPES else torch.float32
        if constant.dtype not in (*INDEX_DTYPES, torch.bool, torch.float32) or constant.numel() == 0:
            raise Refused(f"has a constant of {constant.dtype}")
        return constant.detach().cpu().to(dtype).reshape(-1).contiguous()


def _index(operands: Operands, value: Any) -> View:
    if not isinstance(value, fx.Node) or value.meta["val"].dtype not in INDEX_DTYPES:
        raise Refused("takes elements by truth values, as many as there are")
    return operands.see(value)


def _run(call: Call, operands: Operands, view: View, dims: Sequence[int]) -> tuple[View, list[Atom]]:
    """The view with each of `dims` in one run; another view where it had to be copied for that."""
    runs = [layout.run_of(view, d) for d in dims]
    if any(run is None for run in runs) and view.base:
        if any(view.has_batch(d) for d in dims):
            raise Refused("takes some samples")
        view = call.build.packed(view)
        runs = [layout.run_of(view, d) for d in dims]
    found = [run for run in runs if run is not None]
    if len(found) != len(runs):
        raise Refused("layout: takes elements of a dimension that no strides describe")
    return view, found


def _kept(found: Iteration, indices: Sequence[int]) -> int:
    """How many dimensions, of those in front, indices vary in."""
    used = [d for i in indices for d, stride in enumerate(found.places[i][1:]) if stride]
    return max(used, default=-1) + 1


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
        "dims": found.dims, "kept": _kept(found, range(1, len(aligned))), "places": found.places,
        "sizes": tuple(r.size for r in runs), "strides": tuple(r.stride for r in runs), "negative": int(negative),
    }  # fmt: skip
    return call.op_node("take", operands.reads, result, prod(found.dims), call.row_of(result), True,
                        tensors=operands.tensors, attrs=attrs)  # fmt: skip


def _cut(view: View, shape: Sequence[int], but: int) -> View:
    """The first elements of each dimension, as many as `shape` has; 1 of dimension `but`, where another index goes."""
    for d, size in enumerate(shape):
        if d == but:
            view = View(view.base, (*view.dims[:d], ONE, *view.dims[d + 1 :]), view.offset)
        elif not view.has_batch(d) and view.shape[d] != size and view.shape[d] != 1:
            cut = layout.slice_of(view, d, 0, size, 1)
            if cut is None:
                raise Refused("layout: takes a part of a dimension that no strides describe")
            view = cut
    return view


@general(aten.gather.default, aten.take_along_dim.default)
def _gather(call: Call) -> OpNode | str:
    operands = Operands(call)
    along = call.node.target is aten.take_along_dim.default
    if along and call["dim"] is None:
        return "takes elements of all dimensions as one"
    view, index = operands.see(call["self"]), _index(operands, call["indices" if along else "index"])
    if not view.dims or not index.dims:
        return "is of one number"
    dim = call["dim"] % len(view.dims)
    if view.has_batch(dim) or index.has_batch(dim):
        return "takes some samples"
    view, runs = _run(call, operands, view, [dim])
    indices = [(call["indices" if along else "index"], index)]
    return _taken(call, call["self"], _cut(view, call.shape, dim), indices, runs, False, operands)


def _counts_samples(call: Call, value: Any) -> bool:
    """Whether an index is 0, 1, 2, ... for as many samples as there are: each takes of itself."""
    if not isinstance(value, fx.Node) or call.build.batch is None:
        return False
    open_sizes = [s for s in value.meta["val"].shape if not isinstance(s, int)]
    while isinstance(value, fx.Node) and value.target in (
        aten.view.default, aten.unsqueeze.default, aten.expand.default, aten.reshape.default, aten.alias.default,
        aten.slice.Tensor,
    ):  # fmt: skip
        value = value.args[0]
    if not isinstance(value, fx.Node) or value.target not in (
        aten.arange.default,
        aten.arange.start,
        aten.arange.start_step,
    ):
        return False
    size = value.meta["val"].shape[0]
    inner = Call(call.build, value)
    start = 0 if value.target is aten.arange.default else inner["start"]
    step = inner["step"] if value.target is aten.arange.start_step else 1
    if isinstance(size, int) or not size.node.expr.is_Symbol or start != 0 or step != 1:
        return False
    return [s.node.expr for s in open_sizes] == [size.node.expr]


class Indexed:
    """x[i, :, j]: where its dimensions go. `view` and `indices` are against the result."""

    def __init__(self, call: Call, operands: Operands, view: View, given: Sequence[Any]) -> None:
        self.operands = operands
        indices = [*given, *[None] * (len(view.dims) - len(given))]
        at = [d for d, i in enumerate(indices) if i is not None]
        samples = [d for d in at if _counts_samples(call, indices[d]) and view.has_batch(d)]
        chosen = [d for d in at if d not in samples]
        if not chosen or any(view.has_batch(d) for d in chosen):
            raise Refused("takes some samples")
        view, self.runs = _run(call, operands, view, chosen)
        found = {d: _index(operands, indices[d]) for d in chosen}
        rank = max(i.meta["val"].dim() for i in indices if i is not None)
        common: list[tuple[Atom, ...]] = [ONE] * rank
        for d in samples:
            meta = indices[d].meta["val"]
            for k, size in enumerate(meta.shape):
                if not isinstance(size, int):
                    common[rank - meta.dim() + k] = view.dims[d]
        others = [d for d in range(len(view.dims)) if d not in at]
        beside = at == list(range(at[0], at[-1] + 1))
        front = [d for d in others if d < at[0]] if beside else []
        behind = [d for d in others if d not in front]
        self.view = View(
            view.base, (*(view.dims[d] for d in front), *common, *(view.dims[d] for d in behind)), view.offset
        )
        self.indices: list[tuple[Any, View]] = []
        for d in chosen:
            own = found[d]
            dims = (*[ONE] * len(front), *[ONE] * (rank - len(own.dims)), *own.dims, *[ONE] * len(behind))
            self.indices.append((indices[d], View(own.base, dims, own.offset)))


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
    index = _index(operands, call["indices"])
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
        "dims": found.dims, "kept": _kept(found, [1]), "places": found.places, "sizes": (table.shape[0],),
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


# -- put ------------------------------------------------------------------------------------------------------------------


def _put(call: Call, operands: Operands, whole: View, target: View, indices: list[tuple[Any, View]], runs: list[Atom],
         source: tuple[Any, View], shape: Sequence[int], mode: str, negative: bool) -> OpNode:  # fmt: skip
    """whole: of the tensor that is put into. target: of the result, and with indices and source against `shape`."""
    if call.node.meta["val"].dtype == torch.int32 and mode in ("add", "prod"):
        raise Refused("joins int32")
    result = View("", call.ordered(call.shape, _lead(call, whole, target)).dims)
    aligned = [View("", target.dims, target.offset), *(v for _, v in indices), source[1]]
    order = call.build._dense_like(View("", tuple(call.leading(aligned, shape))))
    found = iteration(order, aligned)
    copied = iteration(result, [whole, result])
    if found is None or copied is None:
        raise Refused("layout: its samples lie in several dimensions")
    operands.add("x", call["self"], whole)
    for k, (value, index) in enumerate(indices):
        operands.add(f"i{k}", value, index)
    operands.add("src", *source)
    if not operands.reads:
        raise Refused("puts nothing of the inputs")
    wanted = torch.int64 if call.node.meta["val"].dtype in INDEX_DTYPES else torch.float32
    for name in {"x", "src"} & operands.tensors.keys():
        operands.tensors[name] = operands.tensors[name].to(wanted)
    attrs = {
        "mode": mode, "dims": found.dims, "kept": _kept(found, range(1, 1 + len(indices))), "places": found.places,
        "sizes": tuple(r.size for r in runs), "strides": tuple(r.stride for r in runs), "negative": int(negative),
        "whole": (copied.dims, copied.places[0], copied.places[1]),
    }  # fmt: skip
    return call.op_node("put", operands.reads, result, prod(copied.dims), call.row_of(result), True,
                        tensors=operands.tensors, attrs=attrs)  # fmt: skip


def _lead(call: Call, whole: View, target: View) -> View:
    """The order of a result: that of the tensor that is put into, or dense where that is a constant."""
    if whole.base:
        return whole
    return call.build._dense_like(View("", tuple(call.leading([target], call.shape))))


def _result_like(call: Call, whole: View, others: Sequence[View]) -> View:
    """The result before it is decided where its elements lie, with samples where an operand has them."""
    lead = call.leading([whole, *(v for v in others if len(v.dims) == len(call.shape))], call.shape)
    like = whole if whole.base else call.build._dense_like(View("", tuple(lead)))
    return call.ordered(call.shape, like)


def _number(value: Any, rank: int) -> View:
    return View("", tuple([ONE] * rank))


_REDUCTIONS = {"sum": "add", "prod": "prod", "amax": "amax", "amin": "amin", "add": "add", "multiply": "prod"}


@general(aten.scatter.src, aten.scatter.value, aten.scatter.reduce, aten.scatter.value_reduce, aten.scatter_add.default,
         aten.scatter_reduce.two)  # fmt: skip
def _scatter(call: Call) -> OpNode | str:
    target = call.node.target
    mode = "add" if target is aten.scatter_add.default else "set"
    if target in (aten.scatter.reduce, aten.scatter.value_reduce, aten.scatter_reduce.two):
        found = _REDUCTIONS.get(call["reduce"])
        if found is None or (target is aten.scatter_reduce.two and not call["include_self"]):
            return "joins in another way than a sum, a product or an extreme with what was there"
        mode = found
    operands = Operands(call)
    whole, index = operands.see(call["self"]), _index(operands, call["index"])
    if not whole.dims or not index.dims:
        return "is of one number"
    dim = call["dim"] % len(whole.dims)
    shape = [s if isinstance(s, int) else int(s.node.hint) for s in call["index"].meta["val"].shape]
    if target in (aten.scatter.value, aten.scatter.value_reduce):
        source: tuple[Any, View] = (call["value"], _number(call["value"], len(shape)))
    else:
        view = operands.see(call["src"])
        cut = _cut(
            View(view.base, tuple(ONE if d == dim else a for d, a in enumerate(view.dims)), view.offset), shape, -1
        )
        own = layout.slice_of(view, dim, 0, shape[dim], 1)
        if own is None:
            return "layout: reads a part of a dimension that no strides describe"
        source = (
            call["src"],
            View(cut.base, tuple(own.dims[d] if d == dim else a for d, a in enumerate(cut.dims)), cut.offset),
        )
    result = _result_like(call, whole, [index])
    if result.has_batch(dim) or index.has_batch(dim):
        return "puts into some samples"
    run = layout.run_of(result, dim)
    assert run is not None
    return _put(
        call, operands, whole, _cut(result, shape, dim), [(call["index"], index)], [run], source, shape, mode, False
    )


@general(aten.index_add.default, aten.index_copy.default, aten.index_fill.int_Scalar)
def _index_join(call: Call) -> OpNode | str:
    target = call.node.target
    if target is aten.index_add.default and call["alpha"] != 1:
        return "adds a multiple"
    operands = Operands(call)
    whole = operands.see(call["self"])
    if not whole.dims:
        return "is of one number"
    dim = call["dim"] % len(whole.dims)
    index = _index(operands, call["index"])
    if index.batch_dim is not None or not index.dims:
        return "puts into some samples"
    shape = list(call.shape)
    shape[dim] = index.shape[0]
    index = View(index.base, tuple(index.dims[0] if d == dim else ONE for d in range(len(shape))), index.offset)
    fills = target is aten.index_fill.int_Scalar
    source = (
        (call["value"], _number(call["value"], len(shape))) if fills else (call["source"], operands.see(call["source"]))
    )
    result = _result_like(call, whole, [] if fills else [source[1]])
    run = layout.run_of(result, dim)
    if result.has_batch(dim) or run is None:
        return "puts into some samples"
    mode = "add" if target is aten.index_add.default else "set"
    aligned = _cut(result, shape, dim)
    return _put(call, operands, whole, aligned, [(call["index"], index)], [run], source, shape, mode, False)


@general(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(call: Call) -> OpNode | str:
    operands = Operands(call)
    whole = operands.see(call["self"])
    if not whole.dims:
        return "is of one number"
    given = list(call["indices"])
    if any(i is not None and i.meta["val"].dtype not in INDEX_DTYPES for i in given):
        return "puts where truth values say"
    result = _result_like(call, whole, [])
    if call.build.batch is not None and result.batch_dim is None:
        return "puts each sample's elements into one constant"
    found = Indexed(call, operands, View("", result.dims), given)
    source = operands.see(call["values"])
    views = [found.view, *(v for _, v in found.indices)]
    rank = len(found.view.dims)
    shape = [max((v.shape[d] for v in views), default=1) for d in range(rank)]
    source = View(source.base, (*[ONE] * (rank - len(source.dims)), *source.dims), source.offset)
    mode = "add" if call["accumulate"] else "set"
    return _put(
        call, operands, whole, found.view, found.indices, found.runs, (call["values"], source), shape, mode, True
    )
