"""Pooling of a whole dimension to one number, as the mean or the extreme that it is, which streams step by step."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call

_MEANS = {aten.adaptive_avg_pool1d.default: 1, aten.adaptive_avg_pool2d.default: 2, aten.adaptive_avg_pool3d.default: 3}
_EXTREMES = {
    aten.adaptive_max_pool1d.default: 1, aten.adaptive_max_pool2d.default: 2, aten.adaptive_max_pool3d.default: 3
}  # fmt: skip
"""Dimensions that each pools."""


def whole_pools_as_reductions(graph: fx.Graph) -> None:
    """In place: for pooling to one number of each channel, of which no place is read."""
    for node in list(graph.nodes):
        rank = _MEANS.get(node.target) or _EXTREMES.get(node.target)
        if rank is None or set(_sizes(node.args[1])) != {1}:
            continue
        over = list(range(-rank, 0))
        with graph.inserting_before(node):
            if node.target in _MEANS:
                node.replace_all_uses_with(insert_call(graph, node, aten.mean.dim, (node.args[0], over, True)))
            elif all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
                made = insert_call(graph, node, aten.amax.default, (node.args[0], over, True))
                for user in list(node.users):
                    user.replace_all_uses_with(made)
    graph.eliminate_dead_code()


def _sizes(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)
