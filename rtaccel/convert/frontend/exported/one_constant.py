"""Tensors that a model reads by several names, as one: tied weights, and parameters that a plain dict holds too.

torch.export lifts a tensor that is no parameter of its module anew at each use. A loop would have other weights at each step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx


def read_by_one_name(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Users of a constant read the first one that is the same memory, in place."""
    first: dict[Any, fx.Node] = {}
    for node in graph.nodes:
        value = constants.get(node.name) if node.op == "placeholder" else None
        if value is None or not value.numel():
            continue
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        one = first.setdefault(key, node)
        if one is not node:
            node.replace_all_uses_with(one)
