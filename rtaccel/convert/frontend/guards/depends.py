"""Which calls of a graph depend on its inputs. A call may write into a tensor, and then all that looks at it does."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten

OF_SHAPES = {aten.sym_size.int, aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default}
"""Calls that give the same whatever numbers a tensor holds."""


def of_inputs(node: fx.Node, inputs: set[str], apart: Container[Any] = ()) -> bool:
    """Whether a node depends on one of the named inputs. apart: calls that depend on none."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if one in seen or one.target in apart:
            continue
        seen.add(one)
        if one.op == "placeholder" and one.name in inputs:
            return True
        stack.extend(one.all_input_nodes)
    return False


def of_placeholders(graph: fx.Graph) -> list[fx.Node]:
    """The calls whose numbers depend on an input, in order."""
    depends = dict.fromkeys(n for n in graph.nodes if n.op == "placeholder")
    memory: set[Any] = set()  # that holds what depends on one
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.target in OF_SHAPES or not any(s in depends or _memory(s) in memory for s in sources):
            continue
        depends[node] = None
        memory.update(_memory(owner(tensor)) for tensor in _written_by(node))
    return [node for node in depends if node.op == "call_function"]


def _memory(node: fx.Node) -> Any:
    """What stands for the memory of a tensor. An attribute is got once or several times."""
    made = owner(node)
    return made.target if made.op == "get_attr" else made


def written(graph: fx.Graph) -> set[fx.Node]:
    """The tensors that a call writes into."""
    return {owner(tensor) for node in graph.nodes for tensor in _written_by(node)}


def _written_by(node: fx.Node) -> Iterator[fx.Node]:
    schema = getattr(node.target, "_schema", None)
    for place, argument in enumerate(schema.arguments if schema is not None else ()):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (
                one for one in (given if isinstance(given, (list, tuple)) else (given,)) if isinstance(one, fx.Node)
            )


def owner(node: Any) -> fx.Node:
    """The call that made the memory of a tensor, of which it may be a view."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        looks = schema is not None and schema.returns and schema.returns[0].alias_info is not None
        if not looks or not node.args or not isinstance(node.args[0], fx.Node):
            break
        node = node.args[0]
    return node
