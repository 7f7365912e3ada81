"""Loops over `nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell` as the layer that they are: one call over all time steps.

A chain of cells with the same weights, each from the state of the one before, is the layer.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.rolled.lift import Lift, NotALoop, is_zero

MIN_STEPS = 4
"""Fewer stay as they are."""

LAYERS: dict[Any, Any] = {
    aten.lstm_cell.default: aten.lstm.input,
    aten.gru_cell.default: aten.gru.input,
    aten.rnn_tanh_cell.default: aten.rnn_tanh.input,
    aten.rnn_relu_cell.default: aten.rnn_relu.input,
}


def roll_cells(graph: fx.Graph, order: dict[fx.Node, int]) -> bool:
    """In place; whether there were such chains."""
    cells = [node for node in graph.nodes if node.op == "call_function" and node.target in LAYERS]
    changed, seen = False, set[fx.Node]()
    for node in cells:
        if node not in seen:
            chain = _chain(node)
            seen.update(chain)
            changed |= len(chain) >= MIN_STEPS and _roll(graph, chain, order)
    return changed


def _states(cell: fx.Node) -> list[Any]:
    given: Any = cell.args[1]
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _made(cell: fx.Node) -> list[fx.Node | None]:
    """h, and c of an LSTM, as nodes; None where nothing reads it."""
    if cell.target is not aten.lstm_cell.default:
        return [cell]
    return [next((u for u in cell.users if u.target is operator.getitem and u.args[1] == i), None) for i in range(2)]


def _chain(first: fx.Node) -> list[fx.Node]:
    """The cells that go on from one another, from this one on."""
    chain = [first]
    while (following := _following(chain[-1])) is not None:
        chain.append(following)
    return chain


def _following(cell: fx.Node) -> fx.Node | None:
    made = _made(cell)
    for user in () if made[0] is None else made[0].users:
        alike = user.target is cell.target and user.args[2:] == cell.args[2:] and user.kwargs == cell.kwargs
        if alike and _states(user) == made:
            return user
    return None


def _roll(graph: fx.Graph, chain: list[fx.Node], order: dict[fx.Node, int]) -> bool:
    if (
        not all(isinstance(s, fx.Node) for s in _states(chain[0]))
        or chain[0].kwargs
        or any(map(_keeps_more, chain[:-1]))
    ):
        return False
    if any(not isinstance(cell.args[0], fx.Node) or cell.args[0].meta["val"].dim() != 2 for cell in chain):
        return False
    lift = Lift(graph, chain[0], order)
    try:
        y, layer = _layer(lift, chain)
    except NotALoop:
        lift.undo()
        return False
    here = order[chain[0]]
    if any(order.get(source, -1) > here for node in lift.made for source in node.all_input_nodes):
        lift.undo()
        return False
    for t, cell in enumerate(chain):
        h = _made(cell)[0]
        if h is not None:
            one = lift.call(aten.select.int, y, 0, t)
            one.meta |= {k: v for k, v in cell.meta.items() if k != "val"}
            h.replace_all_uses_with(one)
    if _keeps_more(chain[-1]):
        c: Any = _made(chain[-1])[1]
        c.replace_all_uses_with(lift.call(aten.select.int, lift.call(operator.getitem, layer, 2), 0, 0))
    return True


def _keeps_more(cell: fx.Node) -> bool:
    """Whether c of an LSTM is read by something else than the next cell: the layer gives the last one alone."""
    made = _made(cell)
    return len(made) > 1 and made[1] is not None and any(user.target is not cell.target for user in made[1].users)


def _layer(lift: Lift, chain: list[fx.Node]) -> tuple[fx.Node, fx.Node]:
    """[time, batch, hidden]: h of each cell; and the call of the layer."""
    first = chain[0]
    x = lift.over_time(tuple(cell.args[0] for cell in chain))
    begin = [_of_layer(lift, state) for state in _states(first)]
    given = (*first.args[2:], *(None,) * (6 - len(first.args)))
    params = [p for p in given if p is not None]
    if len(params) not in (2, 4):
        raise NotALoop
    state = begin if len(begin) > 1 else begin[0]
    h: Any = (_made(first)[0] or _states(first)[0]).meta["val"]
    last = h.new_empty((1, *h.shape))
    # Values are given, not computed: torch's layers take no open sizes while they are traced.
    with lift.graph.inserting_before(lift.at):
        layer = lift.graph.call_function(
            LAYERS[first.target], (x, state, params, len(params) == 4, 1, 0.0, False, False, False)
        )
    layer.meta = {**first.meta, "val": (h.new_empty((len(chain), *h.shape)), *(last for _ in begin))}
    lift.made.append(layer)
    return lift.call(operator.getitem, layer, 0), layer


def _of_layer(lift: Lift, state: fx.Node) -> fx.Node:
    """The state that a layer of these cells begins with, [1, batch, hidden]."""
    made = lift.call(aten.unsqueeze.default, state, 0)
    return lift.call(aten.zeros_like.default, made) if is_zero(state) else made
