"""LSTMs with projections (`proj_size=`) as the loop over cells that they are, which streams as others do.

c_t = f c_(t-1) + i g and h_t = W_hr (o tanh(c_t)), with the gates of an LSTM from x_t and h_(t-1).
Source: Sak and others, Long short-term memory based recurrent neural network architectures, 2014 (arXiv:1402.1128).
"""

from __future__ import annotations

from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call
from rtaccel.core.row_traits import not_streamable


def with_projections_as_loops(graph: fx.Graph, steps: int) -> None:
    """In place, for layers that run forwards, over so many time steps. Raises UnsupportedProblem where they run over others."""
    for node in graph.find_nodes(op="call_function", target=aten.lstm.input):
        x, states, params, biases, layers, _, _, both_ways, batch_first = node.args
        time = 1 if batch_first else 0
        if both_ways or len(params) != layers * (5 if biases else 3):
            continue
        if x.meta["val"].shape[time] != steps:  # of one time step it would be a layer that treats samples alike
            raise not_streamable(f"{node.name}, which takes time steps for samples")
        with graph.inserting_before(node):
            made = _layers(graph, node, x, states, params, int(layers), time)
        for user in list(node.users):
            which: Any = user.args[1]
            if which:
                _left_out(graph, user)
            user.replace_all_uses_with(made[which])
    graph.eliminate_dead_code()


def _left_out(graph: fx.Graph, state: fx.Node) -> None:
    """A state that the model returns: the stream keeps it itself."""
    end = graph.output_node()
    returned: Any = end.args[0]
    end.args = (tuple(value for value in returned if value is not state),)


def _layers(
    graph: fx.Graph, node: fx.Node, x: Any, states: Any, params: Any, layers: int, time: int
) -> tuple[fx.Node, fx.Node, fx.Node]:
    """(y, h, c) of a stack. time: the dimension of x."""

    def call(target: Any, *args: Any) -> fx.Node:
        return insert_call(graph, node, target, args)

    each, last_h, last_c = len(params) // layers, [], []
    for layer in range(layers):
        w_ih, w_hh, *rest = params[layer * each : (layer + 1) * each]
        b_ih, b_hh, w_hr = rest if len(rest) == 3 else (None, None, *rest)
        h, c = (call(aten.select.int, state, 0, layer) for state in states)
        made = []
        for t in range(x.meta["val"].shape[time]):
            now = call(aten.linear.default, call(aten.select.int, x, time, t), w_ih, b_ih)
            gates = call(aten.add.Tensor, now, call(aten.linear.default, h, w_hh, b_hh))
            size = gates.meta["val"].shape[1] // 4
            i, f, g, o = (call(aten.slice.Tensor, gates, 1, k * size, (k + 1) * size) for k in range(4))
            kept = call(aten.mul.Tensor, call(aten.sigmoid.default, f), c)
            new = call(aten.mul.Tensor, call(aten.sigmoid.default, i), call(aten.tanh.default, g))
            c = call(aten.add.Tensor, kept, new)
            out = call(aten.mul.Tensor, call(aten.sigmoid.default, o), call(aten.tanh.default, c))
            h = call(aten.linear.default, out, w_hr)
            made.append(h)
        x = call(aten.stack.default, made, time)
        last_h.append(h)
        last_c.append(c)
    return x, call(aten.stack.default, last_h, 0), call(aten.stack.default, last_c, 0)
