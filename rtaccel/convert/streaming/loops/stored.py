"""Values of dtypes that no plan keeps, such as truth values, as those that it keeps instead: at the edge of a body."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.graph.values import STORED_APART


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    return getattr(torch, STORED_APART.get(dtype, str(dtype).removeprefix("torch.")))


def as_kept(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The node in the dtype that it is kept in, by a call where that is another one."""
    return _cast(graph, node, kept_dtype(node.meta["val"].dtype), f"{node.name}_kept_as")


def as_given(graph: fx.Graph, node: fx.Node, dtype: torch.dtype, name: str) -> fx.Node:
    """A node in the dtype that its readers know, by a call of that name where it is kept in another one."""
    if dtype == torch.bool:
        made = graph.create_node("call_function", aten.gt.Scalar, (node, 0.5), name=name)
        made.meta = {"val": node.meta["val"] > 0.5}
        return made
    return _cast(graph, node, dtype, name)


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype, name: str) -> fx.Node:
    value: Any = node.meta["val"]
    if value.dtype == dtype:
        return node
    made = graph.create_node("call_function", aten.to.dtype, (node, dtype), name=name)
    made.meta = {**node.meta, "val": value.to(dtype)}
    return made
