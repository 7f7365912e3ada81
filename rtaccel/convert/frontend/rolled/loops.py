"""Which stacks and chains of a graph are loops over time steps, and the calls over all of them in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.rolled import rules
from rtaccel.convert.frontend.rolled.cells import roll_cells
from rtaccel.convert.frontend.rolled.lift import Lift, NotALoop, chain_link
from rtaccel.convert.frontend.rolled.parallel import with_parallel_scans_joined

MIN_STEPS = 4
"""Fewer stay as they are."""


def with_loops_rolled(graph: fx.Graph) -> fx.Graph:
    """The graph with such loops as calls over all time steps, in place; as it was where there is none."""
    assert rules  # imported for its rules
    changed = roll_cells(graph, {node: at for at, node in enumerate(graph.nodes)})
    if changed:
        graph.eliminate_dead_code()
    order = {node: at for at, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (aten.stack.default, aten.cat.default):
            changed |= _roll_stack(graph, node, order)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.users and _ends_chain(node):
            changed |= _roll_chain(graph, node, order)
    if changed:
        graph.eliminate_dead_code()
    with_parallel_scans_joined(graph)  # trees, where no loop is left that would be followed in vain
    return graph


def _roll_stack(graph: fx.Graph, node: fx.Node, order: dict[fx.Node, int]) -> bool:
    parts: Any = node.args[0]
    steps, rank = len(parts), node.meta["val"].dim()
    if steps < MIN_STEPS or len(set(parts)) != steps or not all(isinstance(p, fx.Node) for p in parts):
        return False
    dim = int(node.args[1] if len(node.args) > 1 else 0) % rank  # type: ignore[arg-type]
    joins = node.target is aten.cat.default
    if joins and any(part.meta["val"].dim() != rank for part in parts):
        return False
    others = list(range(1, rank))

    def whole(lift: Lift) -> fx.Node:
        made = lift.over_time(tuple(parts))
        if joins and parts[0].meta["val"].shape[dim] == 1:
            made = lift.call(aten.squeeze.dim, made, dim + 1)
        elif joins:  # several rows of each step: [..., time, rows, ...]
            turned = lift.call(aten.permute.default, made, [*range(1, dim + 1), 0, *range(dim + 1, rank + 1)])
            return lift.call(aten.flatten.using_ints, turned, dim, dim + 1)
        return lift.call(aten.permute.default, made, [*others[:dim], 0, *others[dim:]])

    return _replaced(node, Lift(graph, node, order), whole)


def _replaced(node: fx.Node, lift: Lift, whole: Callable[[Lift], fx.Node]) -> bool:
    """Puts what is made for all time steps in the place of a node; False, with nothing changed, where that is no loop."""
    try:
        made = whole(lift)
    except NotALoop:
        lift.undo()
        return False
    node.replace_all_uses_with(made)
    lift.hand_over()
    return True


def _ends_chain(node: fx.Node) -> bool:
    """Whether the node is the last h of a chain, which nothing takes on."""
    link = chain_link(node)
    return link is not None and not any(
        (on := chain_link(user)) is not None and on.past is node for user in _through(node)
    )


def _through(node: fx.Node) -> list[fx.Node]:
    """The calls that may take a node on: its users, and theirs."""
    return [far for user in node.users for far in (user, *user.users)]


def _roll_chain(graph: fx.Graph, node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """A recurrence of which only the last result is read."""
    chain = [node]
    while (link := chain_link(chain[-1])) is not None and link.past is not None:
        chain.append(link.past)
    chain.reverse()
    inside = set(chain) | {n for h in chain for n in h.all_input_nodes}
    if len(chain) < 2 * MIN_STEPS or any(user not in inside for h in chain[:-1] for user in h.users):
        return False

    def last(lift: Lift) -> fx.Node:
        return lift.call(aten.select.int, lift.over_time(tuple(chain)), 0, len(chain) - 1)

    return _replaced(node, Lift(graph, node, order), last)
