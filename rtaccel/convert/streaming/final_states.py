"""What a model reads of the final state h of a recurrent layer, as its newest output: of one layer they are the same.

A stack of which lower layers are read goes apart into its layers.
"""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call

_STACKS = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
_INPUT, _STATES, _PARAMS, _BIASES, _LAYERS, _BOTH_WAYS, _BATCH_FIRST = 0, 1, 2, 3, 4, 7, 8
"""Arguments of a call."""


def read_newest_output(graph: fx.Graph) -> None:
    """In place, for layers that run forwards. What the model returns of a state stays: the stream keeps it itself."""
    for node in [n for n in graph.nodes if n.target in _STACKS]:
        state = _part(node, 1)
        readers = [] if state is None else [user for user in state.users if user.op != "output"]
        if state is None or not readers or node.args[_BOTH_WAYS]:
            continue
        count: Any = node.args[_LAYERS]
        own = [r for r in readers if r.target is aten.select.int and r.args[1] == 0 and r.args[2] in (-1, count - 1)]
        if count > 1 and len(own) < len(readers) < len(state.users):
            continue  # it is returned as well, of a stack that would go apart
        layers = [node] if len(own) == len(readers) else _apart(graph, node)
        newest = [_newest(graph, layer) for layer in layers]
        whole = None if len(own) == len(readers) else _joined(graph, newest)
        for reader in readers:
            if whole is None or reader in own:
                reader.replace_all_uses_with(newest[-1])
                graph.erase_node(reader)
            else:
                reader.replace_input_with(state, whole)


def _part(node: fx.Node, index: int) -> fx.Node | None:
    return next((user for user in node.users if user.target is operator.getitem and user.args[1] == index), None)


def _apart(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """The layers of a stack, each a call of its own; what read the result of the stack reads that of the last one."""
    args: Any = node.args
    count, params, states, x = args[_LAYERS], args[_PARAMS], args[_STATES], args[_INPUT]
    if count == 1:
        return [node]
    each, made = len(params) // count, []
    for layer in range(count):
        with graph.inserting_before(node):
            one = fx.map_arg(states, partial(_cut, graph, layer))
            own = (x, one, params[layer * each : (layer + 1) * each], args[_BIASES], 1, *args[_LAYERS + 1 :])
            made.append(insert_call(graph, node, node.target, own))
            x = _result(graph, made[-1])
    result = _part(node, 0)
    if result is not None:
        result.replace_all_uses_with(x)
    return made


def _cut(graph: fx.Graph, layer: int, state: fx.Node) -> fx.Node:
    return insert_call(graph, state, aten.slice.Tensor, (state, 0, layer, layer + 1))


def _result(graph: fx.Graph, layer: fx.Node) -> fx.Node:
    found = _part(layer, 0)
    return found if found is not None else insert_call(graph, layer, operator.getitem, (layer, 0))


def _newest(graph: fx.Graph, layer: fx.Node) -> fx.Node:
    with graph.inserting_after(layer):
        result = _result(graph, layer)
    with graph.inserting_after(result):
        return insert_call(graph, layer, aten.select.int, (result, 1 if layer.args[_BATCH_FIRST] else 0, -1))


def _joined(graph: fx.Graph, newest: list[fx.Node]) -> fx.Node:
    """h [layers, B, hidden]."""
    with graph.inserting_before(newest[-1].next):
        parts = [insert_call(graph, one, aten.unsqueeze.default, (one, 0)) for one in newest]
        return insert_call(graph, newest[-1], aten.cat.default, (parts, 0))
