"""Calls on entries that a mask chooses: what chooses them, reads by them, joins them and adds them up."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

import torch
from torch import fx

from rtaccel.convert.frontend.all_entries.rewrite import RULES, Kept, Rule, _Rewriter, aten, chosen


def rule(*targets: Any) -> Any:
    def put(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return put


def _choose(to: _Rewriter, size: Any, mask: Any) -> int:
    """Notes that the entries of a size are those of a mask; how many the mask has."""
    made = to.made[mask]
    count = made.meta["val"].numel()
    if not isinstance(count, int):
        raise Kept("a mask over samples")

    def counts() -> fx.Node:
        flat = made if made.meta["val"].dim() == 1 else to.call(aten.reshape.default, made, [count])
        if not chosen(mask):
            return flat
        own = mask.meta["val"].shape[0]
        return to.call(aten.logical_and.default, flat, to.counts[str(own.node.expr)])

    to.note(size, (to.first_like(made),), count, counts)
    return int(count)


@rule(aten.nonzero.default)
def _nonzero(to: _Rewriter, node: Any) -> fx.Node:
    return to.like(node, to.call(aten.stack.default, _places(to, node, node.meta["val"].shape[0]), 1))


@rule(aten.nonzero_numpy.default, aten.where.default)
def _where(to: _Rewriter, node: Any) -> Any:
    return tuple(_places(to, node, node.meta["val"][0].shape[0]))  # `_item` reads them


@rule(operator.getitem)
def _item(to: _Rewriter, node: Any) -> Any:
    made = to.made[node.args[0]]
    return to.like(node, made[node.args[1]]) if isinstance(made, tuple) else to.plain(node)


def _places(to: _Rewriter, node: Any, size: Any) -> list[fx.Node]:
    """By dimension, where the elements of a mask are."""
    mask = _as_mask(to, node.args[0])
    shape = to.made[mask].meta["val"].shape
    flat = to.call(aten.arange.default, _choose(to, size, mask), dtype=torch.int64)
    found = []
    for d in range(len(shape)):
        one = to.call(aten.div.Tensor_mode, flat, prod(shape[d + 1 :]), rounding_mode="floor")
        found.append(to.call(aten.remainder.Scalar, one, shape[d]) if d else one)
    return found


def _as_mask(to: _Rewriter, mask: Any) -> Any:
    if mask.meta["val"].dtype != torch.bool or (chosen(mask) and mask.meta["val"].dim() > 1):
        raise Kept("entries that are not zero")
    return mask


@rule(aten.index.Tensor)
def _index(to: _Rewriter, node: Any) -> fx.Node:
    source, given = node.args[0], list(node.args[1])
    masks = [(i, n) for i, n in enumerate(given) if n is not None and n.meta["val"].dtype == torch.bool]
    if not masks:
        return _by_places(to, node, given)
    (at, mask), *more = masks
    if more or any(n is not None for n in given if n is not mask):
        raise Kept("a mask beside other indices")
    if chosen(source) and to.place(source) != at:
        raise Kept("entries of entries")
    count = _choose(to, node.meta["val"].shape[at], _as_mask(to, mask))
    made = to.made[source]
    shape, over = list(made.meta["val"].shape), mask.meta["val"].dim()
    if over > 1:
        made = to.call(aten.reshape.default, made, [*shape[:at], count, *shape[at + over :]])
    return to.like(node, made)


def _by_places(to: _Rewriter, node: Any, given: list[Any]) -> fx.Node:
    """Places of entries that do not count may be anything: they read row 0."""
    if chosen(node.args[0]):
        raise Kept("entries by place")
    safe = [to.filled(n, 0) if n is not None and chosen(n) else n and to.made[n] for n in given]
    return to.like(node, to.call(node.target, to.made[node.args[0]], safe))


@rule(aten.index_select.default, aten.gather.default)
def _select(to: _Rewriter, node: Any) -> fx.Node:
    source, dim, index = node.args[:3]
    if chosen(source):
        raise Kept("entries by place")
    return to.like(node, to.call(node.target, to.made[source], dim, to.filled(index, 0)))


@rule(aten.embedding.default)
def _embedding(to: _Rewriter, node: Any) -> fx.Node:
    table, index = node.args[:2]
    return to.like(node, to.call(node.target, to.made[table], to.filled(index, 0)))


@rule(aten.cat.default)
def _cat(to: _Rewriter, node: Any) -> fx.Node:
    parts: Any = node.args[0]
    dim = int(node.args[1]) if len(node.args) > 1 else 0
    dim %= node.meta["val"].dim()
    if to.place(node) != dim:
        orders = {to.order[e] for part in parts for e in to.expressions(part)}
        if len(orders) > 1 or any(chosen(part) and to.place(part) != to.place(node) for part in parts):
            raise Kept("entries of several masks meet")
        return to.again(node)
    order: list[Any] = []
    masks: list[tuple[fx.Node | None, int]] = []
    for part in parts:
        size = part.meta["val"].shape[dim]
        if chosen(part):
            if to.place(part) != dim:
                raise Kept("entries in several dimensions")
            name = str(size.node.expr)
            order.extend(to.order[name])
            masks.append((to.counts[name], int(to.counts[name].meta["val"].shape[0])))
        elif not isinstance(size, int):
            raise Kept("samples beside entries")
        else:
            order.append(size)
            masks.append((None, size))

    def counts() -> fx.Node:
        made = [m if m is not None else to.call(aten.ones.default, [n], dtype=torch.bool) for m, n in masks]
        return to.call(aten.cat.default, made)

    to.note(node.meta["val"].shape[dim], tuple(order), sum(n for _, n in masks), counts)
    return to.again(node)


@rule(aten.scatter_add.default, aten.index_add.default)
def _add_up(to: _Rewriter, node: Any) -> fx.Node:
    into, dim, index, source = node.args[:4]
    if chosen(into) or not chosen(index) or not chosen(source):
        raise Kept("entries that are added up into entries")
    _of_one_order(to, index, source)
    args = (to.made[into], dim, to.filled(index, 0), to.filled(source, 0.0))
    return to.like(node, to.call(node.target, *args, **node.kwargs))


@rule(aten.scatter_reduce.two, aten.scatter.src, aten.index_copy.default, aten.index_reduce.default)
def _put(to: _Rewriter, node: Any) -> fx.Node:
    """One more row takes the entries that do not count."""
    into, dim, index, source, *rest = node.args
    if chosen(into) or not chosen(index) or not chosen(source):
        raise Kept("entries that are put into entries")
    _of_one_order(to, index, source)
    made = to.made[into]
    shape = list(made.meta["val"].shape)
    at = int(dim) % len(shape)
    if not isinstance(shape[at], int):
        raise Kept("entries that are put into samples")
    row = to.call(aten.new_zeros.default, made, [*shape[:at], 1, *shape[at + 1 :]])
    wider = to.call(aten.cat.default, [made, row], at)
    found = to.call(node.target, wider, dim, to.filled(index, shape[at]), to.made[source], *rest, **node.kwargs)
    return to.like(node, to.call(aten.slice.Tensor, found, at, 0, shape[at]))


def _of_one_order(to: _Rewriter, *nodes: Any) -> None:
    if len({to.order[e] for node in nodes for e in to.expressions(node)}) != 1:
        raise Kept("entries of several masks meet")


_NEUTRAL = {
    aten.sum.dim_IntList: 0.0, aten.sum.default: 0.0, aten.amax.default: float("-inf"), aten.amin.default: float("inf"),
    aten.max.default: float("-inf"), aten.min.default: float("inf"), aten.softmax.int: float("-inf"),
    aten._softmax.default: float("-inf"), aten.any.default: 0, aten.any.dim: 0, aten.all.default: 1, aten.all.dim: 1,
}  # fmt: skip
"""The number that leaves a reduction as it is."""


@rule(*_NEUTRAL)
def _reduce(to: _Rewriter, node: Any) -> fx.Node:
    source = node.args[0]
    dims = node.args[1] if len(node.args) > 1 else None
    over = [dims] if isinstance(dims, int) else list(dims or range(source.meta["val"].dim()))
    if to.place(source) not in [int(d) % source.meta["val"].dim() for d in over]:
        return to.again(node)
    number = _NEUTRAL[node.target]
    if number and not source.meta["val"].is_floating_point() and source.meta["val"].dtype != torch.bool:
        raise Kept("whole numbers have no infinity")
    return to.like(node, to.call(node.target, to.filled(source, number), *node.args[1:], **node.kwargs))


@rule(aten.mean.dim, aten.mean.default)
def _mean(to: _Rewriter, node: Any) -> fx.Node:
    source = node.args[0]
    at, dims = to.place(source), node.args[1] if len(node.args) > 1 else None
    rank = source.meta["val"].dim()
    over = sorted({int(d) % rank for d in (dims or range(rank))})
    if at not in over:
        return to.again(node)
    if over != [at]:
        raise Kept("a mean over more than entries")
    counts = to.counts[to.expressions(source)[0]]
    count = to.call(aten.sum.default, to.call(aten._to_copy.default, counts, dtype=source.meta["val"].dtype))
    total = to.call(aten.sum.dim_IntList, to.filled(source, 0.0), over, *node.args[2:])
    return to.like(node, to.call(aten.div.Tensor, total, count))
