"""Entries that are written back where the mask that chose them is true: a choice between two values, element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rtaccel.convert.frontend.all_entries.rewrite import NOT, Kept, _Rewriter, aten, chosen
from rtaccel.convert.frontend.all_entries.rules import rule


@rule(aten.index_put.default)
def _index_put(to: _Rewriter, node: Any) -> fx.Node:
    """`x[mask] = values` of the entries that the mask chooses."""
    into, given, values = node.args[:3]
    if len(given) != 1 or (len(node.args) > 3 and node.args[3]):
        raise Kept("an index beside others")
    if given[0].meta["val"].dtype != torch.bool:
        raise Kept("places of entries")
    return _chosen_or(to, node, into, given[0], values)


@rule(aten.masked_scatter.default)
def _masked_scatter(to: _Rewriter, node: Any) -> fx.Node:
    """The same by a mask that is spread over the dimensions of an entry."""
    into, mask, values = node.args[:3]
    return _chosen_or(to, node, into, mask, values)


_SPREAD = {aten.unsqueeze.default, aten.expand.default, aten.expand_as.default}


def _ends_spread(mask: fx.Node) -> bool:
    """Whether a call adds a last dimension of one to a mask, or repeats such dimensions."""
    source = mask.all_input_nodes[0]
    before, after = list(source.meta["val"].shape), list(mask.meta["val"].shape)
    if mask.target is aten.unsqueeze.default:
        return after == [*before, 1]
    return len(after) == len(before) and all(n == m or (n == 1 and d) for d, (n, m) in enumerate(zip(before, after)))


def _read(to: _Rewriter, mask: fx.Node) -> tuple[fx.Node, bool]:
    """The mask without what spreads it over later dimensions, and whether it is turned round."""
    turned = False
    while mask.target in NOT or (mask.target in _SPREAD and _ends_spread(mask)):
        turned ^= mask.target in NOT
        mask = mask.all_input_nodes[0]
    return to.first_like(mask), turned


def _chosen_or(to: _Rewriter, node: Any, into: Any, mask: Any, values: Any) -> fx.Node:
    made, where, found = to.made[into], to.made[mask], to.made[values]
    own, shape, given = _read(to, where), list(made.meta["val"].shape), list(where.meta["val"].shape)
    over = own[0].meta["val"].dim()
    if [str(n) for n in own[0].meta["val"].shape] != [str(n) for n in shape[:over]]:
        raise Kept("a mask that does not begin the value")
    if chosen(values):
        orders = {to.order[e] for e in to.expressions(values)}
        if (
            to.place(values) != 0
            or len(orders) != 1
            or len(order := next(iter(orders))) != 1
            or _read(to, order[0]) != own
        ):
            raise Kept("values of another mask")
        if len(shape) - over != found.meta["val"].dim() - 1:
            raise Kept("values of another shape")
        if over > 1:
            found = to.call(aten.reshape.default, found, shape)
    elif values.meta["val"].numel() != 1:
        raise Kept("values of no mask")
    if len(given) < len(shape):
        where = to.call(aten.view.default, where, [*given, *[1] * (len(shape) - len(given))])
    return to.like(node, to.call(aten.where.self, where, found, made))
