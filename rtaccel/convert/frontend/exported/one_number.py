"""Calls along a dimension of a tensor that has none: torch takes 0 and -1 for it, as if it were one of a single element.

Rules and views ask where a dimension lies. So the call is written for a tensor of one dimension, and its results are seen
in the shapes that they have.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.decompose import insert_parts, traced
from rtaccel.convert.frontend.retrace import unlogged

NAMES = {"dim", "dims", "dim0", "dim1", "dimension"}
"""Arguments of torch's calls that name dimensions of the first tensor."""


def with_a_dimension(graph: fx.Graph) -> None:
    """In place."""
    for node in list(graph.nodes):
        if _along_nothing(node):
            _write(node)


def _along_nothing(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    given = node.args[0].meta.get("val")
    made = node.meta.get("val")
    parts = made if isinstance(made, (tuple, list)) else (made,)
    if not isinstance(given, Tensor) or given.dim() or not all(isinstance(part, Tensor) for part in parts):
        return False
    return not schema.is_mutable and bool(NAMES & {argument.name for argument in schema.arguments})


def _write(node: fx.Node) -> None:
    made = node.meta["val"]
    shapes = [part.shape for part in (made if isinstance(made, (tuple, list)) else (made,))]
    known = {s: s.meta.get("val") for s in node.all_input_nodes}
    sources = [s for s, value in known.items() if isinstance(value, Tensor)]
    numbers = {s: value for s, value in known.items() if s not in sources}
    with unlogged(), detect_fake_mode([known[s] for s in sources]) or nullcontext():
        found = traced(_on_one(node.target, shapes), node, sources, numbers, pre_dispatch=True)
    results = insert_parts(found.graph, node, node, sources)
    assert results is not None, f"{node.target} has constants of its own"
    if isinstance(made, Tensor):
        node.replace_all_uses_with(results[0])
    else:
        for reader in list(node.users):
            assert reader.target is operator.getitem
            reader.replace_all_uses_with(results[int(reader.args[1])])  # type: ignore[arg-type]
            node.graph.erase_node(reader)
    node.graph.erase_node(node)


def _on_one(target: Any, shapes: list[torch.Size]) -> Callable[..., list[Tensor]]:
    def call(*args: Any, **kwargs: Any) -> list[Tensor]:
        args, kwargs = pytree.tree_map(
            lambda x: x.reshape(1) if isinstance(x, Tensor) and not x.dim() else x, (args, kwargs)
        )
        leaves = pytree.tree_leaves(target(*args, **kwargs))
        return [leaf.reshape(shape) for leaf, shape in zip(leaves, shapes)]

    return call
