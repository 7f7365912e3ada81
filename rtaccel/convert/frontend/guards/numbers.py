"""A flag beside the results of a graph that holds one decision: whether the numbers that decided are those of the example.

The graph was written down while the model's Python read whole numbers or truth values of its inputs: the longest of the lengths,
whether a mask is all true, the strongest periods. The flag is a result like the others, computed in the same call.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.guards.depends import owner, written

EXACT = (torch.int64, torch.int32, torch.bool)
READS = (
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.allclose.default,
)
"""Calls that give a number to Python."""
_PLACES = (aten.where.default, aten.nonzero_numpy.default)
COUNTS = (aten.nonzero.default, *_PLACES, aten.masked_select.default, aten.index.Tensor)
"""Calls that give as many elements as a mask has true ones."""
_PUTS = (aten.index_put.default, aten.index_put_.default)
_INDEXED = (aten.index.Tensor, *_PUTS)
MAX_NUMBERS = 65_536
"""That are compared in a call."""


class Guard(Enum):
    """Which numbers may decide. INPUTS: those that no weight has a part in, as weights are rounded in other schemes."""

    NONE = "none"
    INPUTS = "inputs"
    ALL = "all"


def with_flag(
    module: fx.GraphModule, reads: Sequence[fx.Node], counts: Sequence[fx.Node], tensors: Sequence[Tensor], guard: Guard,
    steady: bool = False,
) -> bool:  # fmt: skip
    """Adds the flag as the last result, float32 [1]: 0 where all numbers are those of the example. False, with the module as it
    was, where one of the numbers may not decide.

    reads: the calls that give a number to Python. counts: those of COUNTS, whose results are then as in the example. tensors: the
    example. steady: only where the numbers stay the same with noise on what is real among the inputs.
    """
    decide = [*reads, *counts]
    if not decide or guard is Guard.NONE or (guard is Guard.INPUTS and any(map(_of_weights, decide))):
        return False
    graph, changed = module.graph, written(module.graph)
    masks = {mask: node for node in reversed(counts) for mask in _masks(node)}
    if any(owner(mask) in changed for mask in masks):
        return False
    before = set(graph.nodes)
    rows: dict[Any, fx.Node] = {}
    for read in reads:  # numbers are taken where they are read, as they may be written over later
        with graph.inserting_before(read):
            source = _read_by(graph, read)
            if source not in rows or owner(source) in changed:
                rows[source if source not in rows else read] = _whole(graph, source)
    for mask, node in masks.items():
        if mask not in rows:
            with graph.inserting_before(node):
                rows[mask] = _whole(graph, mask)
    exact = all(_is_exact(source) for source in rows)
    found = _held(module, {*rows.values(), *masks}, tensors) if exact else {}
    values = [found[row] for row in rows.values()] if exact else []
    size = sum(v.numel() for v in values)
    if not exact or size > MAX_NUMBERS or (steady and not _stays(module, list(rows.values()), values, tensors)):
        for node in [n for n in reversed(graph.nodes) if n not in before]:
            graph.erase_node(node)
        return False
    for i, node in enumerate(node for node in list(graph.nodes) if node in counts or _puts(node, found)):
        with graph.inserting_before(node):
            _settle(module, node, found, i)
    module.register_buffer("numbers_of_the_example", torch.cat(values))
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        now = (
            graph.call_function(aten.cat.default, (list(rows.values()),))
            if len(rows) > 1
            else next(iter(rows.values()))
        )
        differ = graph.call_function(aten.ne.Tensor, (now, graph.get_attr("numbers_of_the_example")))
        some = graph.call_function(aten.any.dim, (differ, 0, True))
        flag = graph.call_function(aten._to_copy.default, (some,), {"dtype": torch.float32})
    output.args = ([*output.args[0], flag],)
    module.recompile()
    return True


def _read_by(graph: fx.Graph, read: Any) -> fx.Node:
    """The tensor whose numbers Python gets."""
    if len(read.all_input_nodes) < 2:
        return read.all_input_nodes[0]
    same = graph.call_function(aten.eq.Tensor if read.target is aten.equal.default else aten.isclose.default, read.args)
    return graph.call_function(aten.all.default, (same,))


def _is_exact(source: fx.Node) -> bool:
    """Whether a tensor holds whole numbers or truth values. A number that Python got of two tensors is a truth value."""
    if source.target in (aten.all.default, aten.equal.default, aten.allclose.default):
        return True
    value = (source.all_input_nodes[0] if source.target in READS else source).meta.get("val")
    return isinstance(value, Tensor) and value.dtype in EXACT


def counts_of(graph: fx.Graph, depends: set[fx.Node]) -> list[fx.Node]:
    """The calls among these nodes whose results have as many elements as numbers say."""
    return [node for node in graph.nodes if node in depends and node.target in COUNTS and _masks(node)]


def _masks(node: Any) -> list[fx.Node]:
    """The tensors whose numbers say how many elements a call of COUNTS gives."""
    if node.target in _INDEXED:
        return [i for i in node.args[1] if i is not None and i.meta["val"].dtype == torch.bool]
    return [node.args[1] if node.target is aten.masked_select.default else node.args[0]]


def _puts(node: Any, found: dict[fx.Node, Tensor]) -> bool:
    """Whether a call puts elements where masks say that are known."""
    return node.target in _PUTS and bool(_masks(node)) and all(mask in found for mask in _masks(node))


def _stays(
    module: fx.GraphModule, sources: Sequence[fx.Node], values: Sequence[Tensor], tensors: Sequence[Tensor]
) -> bool:
    generator = torch.Generator().manual_seed(11)
    noisy = [
        t + 0.3 * t.std(correction=0) * torch.randn(t.shape, generator=generator) if t.dtype == torch.float32 else t
        for t in tensors
    ]  # fmt: skip
    found = _held(module, set(sources), noisy)
    return all(torch.equal(found[node], value) for node, value in zip(sources, values))


def _settle(module: fx.GraphModule, node: Any, found: dict[fx.Node, Tensor], number: int) -> None:
    """Puts the places of the example where a call looks for them."""
    graph, name = module.graph, f"places_of_the_example_{number}"

    def constant(tensor: Tensor, suffix: str) -> fx.Node:
        module.register_buffer(name + suffix, tensor.clone())
        return graph.get_attr(name + suffix)

    if node.target is aten.nonzero.default:
        node.replace_all_uses_with(constant(found[node.args[0]].nonzero(), ""))
        graph.erase_node(node)
        return
    if node.target in _PLACES:
        for i, place in enumerate(found[node.args[0]].nonzero(as_tuple=True)):
            for reader in [r for r in node.users if r.target is operator.getitem and r.args[1] == i]:
                reader.replace_all_uses_with(constant(place, f"_{i}_{reader.name}"))
                graph.erase_node(reader)
        if not node.users:
            graph.erase_node(node)
        return
    x, where = node.args[0], list[Any]()
    if node.target is aten.masked_select.default:
        mask = found[node.args[1]]
        shape = torch.broadcast_shapes(x.meta["val"].shape, mask.shape)
        x = graph.call_function(aten.expand.default, (x, list(shape)))
        where = [constant(c, f"_{k}") for k, c in enumerate(mask.expand(shape).nonzero(as_tuple=True))]
    else:
        masks = _masks(node)
        for i in node.args[1]:
            if i in masks:
                where += [constant(c, f"_{len(where) + k}") for k, c in enumerate(found[i].nonzero(as_tuple=True))]
            else:
                where.append(i)
    target = node.target if node.target in _PUTS else aten.index.Tensor
    made = graph.call_function(target, (x, where, *node.args[2:]))
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _held(module: fx.GraphModule, nodes: set[fx.Node], tensors: Sequence[Tensor]) -> dict[fx.Node, Tensor]:
    """What the example gives there."""
    kept = _Kept(module, nodes)
    kept.run(*(t.clone() for t in tensors))
    return kept.found


def _whole(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The same numbers in int64, in one row."""
    row = graph.call_function(aten.reshape.default, (node, [-1]))
    return graph.call_function(aten._to_copy.default, (row,), {"dtype": torch.int64})


def _of_weights(node: fx.Node) -> bool:
    """Whether real numbers of a parameter or a buffer have a part in a number: whole ones, such as indices, are never rounded."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if one.op == "get_attr" and _attribute(one).is_floating_point():
            return True
        if one not in seen:
            seen.add(one)
            stack.extend(one.all_input_nodes)
    return False


def _attribute(node: fx.Node) -> Tensor:
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


class _Kept(fx.Interpreter):
    """Runs a graph and keeps some of its values."""

    def __init__(self, module: fx.GraphModule, kept: set[fx.Node]) -> None:
        super().__init__(module)
        self.kept, self.found = kept, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        with torch.no_grad():
            value = super().run_node(n)
        if n in self.kept:
            self.found[n] = value.detach().clone()
        return value
