"""A graph that is an argument of a call: its calls, written where the call is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import depended_on, insert_call

Rule = Callable[["Call"], "Sequence[fx.Node] | None"]
RULES: dict[str, Rule] = {}
""""torch." and the name of the higher-order operator -> its results by calls on tensors, or None where it stays as it is."""


class NotPlain(Exception):
    """A graph with calls that cannot be written elsewhere."""


class Call:
    """A call with graphs, and the place in front of it, where new calls go."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self.module, self.node = module, node
        self.args: tuple[Any, ...] = node.args

    def subgraph(self, argument: Any) -> fx.Graph:
        """The graph that an argument names, its own subgraphs written out before. NotPlain where it names none."""
        named = isinstance(argument, fx.Node) and argument.op == "get_attr"
        part = getattr(self.module, str(argument.target), None) if named else None
        if not isinstance(part, fx.GraphModule):
            raise NotPlain
        inline_subgraphs(part)
        return part.graph

    def write(self, target: Any, *args: Any, **named: Any) -> fx.Node:
        """A new call, with what it gives."""
        return insert_call(self.module.graph, self.node, target, args, named)

    def copied(self, part: fx.Graph, operands: Sequence[Any], result: fx.Node | None = None) -> list[Any]:
        """The calls of a graph with these operands. Its results, or one of its nodes."""
        wanted = results(part) if result is None else [result]
        needed = depended_on([n for n in wanted if isinstance(n, fx.Node)])
        known = dict(zip((n for n in part.nodes if n.op == "placeholder"), operands, strict=True))
        for node in part.nodes:
            if node in known or node not in needed or node.op in ("output", "get_attr"):
                continue
            if node.op != "call_function":
                raise NotPlain
            target, args = node.target, node.args
            if isinstance(target, torch._ops.HigherOrderOperator):
                target, args = _plain_form(node)
            args, named = fx.map_arg((args, node.kwargs), lambda n: known[n])
            known[node] = self.write(target, *args, **named)
        return [known[n] if isinstance(n, fx.Node) else n for n in wanted]


def _plain_form(node: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    """`x[i, j]` of a function that torch maps over indices is a call of its own."""
    if node.target.name() == "flat_apply" and str(node.args[2]).endswith("ModIndex"):  # type: ignore[union-attr]
        return aten.index.Tensor, (node.args[3], list(node.args[4:]))
    raise NotPlain


def results(part: fx.Graph) -> list[Any]:
    found: Any = next(node for node in part.nodes if node.op == "output").args[0]
    return list(found) if isinstance(found, (tuple, list)) else [found]


def inline_subgraphs(module: fx.GraphModule) -> None:
    """Rewrites the graph of a module in place. A call whose graphs are no plain calls on tensors stays as it is."""
    for node in list(module.graph.nodes):
        called = node.target
        rule = RULES.get(f"torch.{called.name()}") if isinstance(called, torch._ops.HigherOrderOperator) else None
        if rule is not None:
            _inline_call(module, node, rule)


def _inline_call(module: fx.GraphModule, node: fx.Node, rule: Rule) -> None:
    graph, readers = module.graph, list(node.users)
    if any(reader.target is not operator.getitem for reader in readers):
        return
    before = set(graph.nodes)
    try:
        with graph.inserting_before(node):
            made = rule(Call(module, node))
    except NotPlain:
        made = None
    if made is None:
        for new in reversed([n for n in graph.nodes if n not in before]):
            graph.erase_node(new)
        return
    for reader in readers:
        reader.replace_all_uses_with(made[int(reader.args[1])])  # type: ignore[arg-type]
    for used in (*readers, node, *node.all_input_nodes):
        if not used.users and (used.op == "get_attr" or used in readers or used is node):
            graph.erase_node(used)
