"""Rules for LSTM, GRU and RNN: one stage for all layers and directions of a module, and for single cells."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, hints, module_name
from rtaccel.convert.frontend.written_out import READS_PARAMETER
from rtaccel.convert.patterns.rules import Call, Refused, rule
from rtaccel.nn.packed_recurrent_ops import PACKED


def _is_zero(call: Call, node: fx.Node) -> bool:
    """Whether a state is the zero that torch starts from, whatever its batch."""
    if node.target in (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default):
        return True
    constant = call.constant(node)
    return constant is not None and not constant.any()


def _weights(call: Call, layers: int, directions: int, gates: int, biased: bool) -> tuple[dict[str, Tensor], int]:
    """The parameters by torch's names, and the hidden size."""
    given = [call.constant(p) for p in call["params"]]
    per = 4 if biased else 2
    if len(given) != layers * directions * per or any(p is None for p in given):
        raise Refused("its weights are computed, or it projects its state")
    tensors: dict[str, Tensor] = {}
    hidden = 0
    for index in range(layers * directions):
        suffix = f"l{index // directions}" + ("_reverse" if index % directions else "")
        own = [p.float() for p in given[index * per : (index + 1) * per] if p is not None]
        hidden = own[1].shape[1]
        if own[0].shape[0] != gates * hidden:
            raise Refused("projects its state")
        tensors[f"weight_ih_{suffix}"], tensors[f"weight_hh_{suffix}"] = own[0], own[1]
        zero = torch.zeros(gates * hidden, device="cpu")
        tensors[f"bias_ih_{suffix}"], tensors[f"bias_hh_{suffix}"] = (own[2], own[3]) if biased else (zero, zero)
    return tensors, hidden


def _sequence(call: Call, batch_first: bool) -> tuple[View, int, int, int]:
    """The input as rows, the number of time steps, of sequences inside a value, and whether those come first. Where the samples
    are joined with another dimension, each has as many sequences as that is long."""
    view = call.view(call["input"])
    if len(view.dims) not in (2, 3):
        raise Refused("has an input of another rank than 2 or 3")
    view = call.rows(call["input"])
    if not layout.same_layout(view, call.build._dense_like(view)):
        view = call.build.packed(view)
    shape = view.shape
    if len(shape) == 2:  # no batch
        if view.has_batch(0):
            raise Refused("layout: its time steps are what varies from call to call")
        return view, shape[0], 1, 1
    time_dim = 1 if batch_first else 0
    if view.has_batch(time_dim) or view.has_batch(2):
        raise Refused("layout: its time steps are what varies from call to call")
    inner = prod(atom.size for atom in view.dims[1 - time_dim] if not atom.batch)
    return view, shape[time_dim], inner, int(batch_first)


def _sequences(view: View, batch_first: bool) -> tuple[Atom, ...]:
    """The dimension of the sequences; no atoms where there is none."""
    return view.dims[0 if batch_first else 1] if len(view.dims) == 3 else ()


def _joined(sequences: tuple[Atom, ...]) -> bool:
    """Whether samples are joined with another dimension there."""
    return any(a.batch for a in sequences) and any(not a.batch and a.size != 1 for a in sequences)


def _meets(view: View, dim: int, sequences: tuple[Atom, ...]) -> bool:
    """Whether a state or lengths belong to the sequences of the input one by one."""
    return layout.same_samples(view.dims, [sequences if d == dim else () for d in range(len(view.dims))])


def _read(call: Call, states: list[fx.Node]) -> list[fx.Node]:
    """Those that are read: none where all are zero, else all of them, a zero too. Raises Refused where no value holds that."""
    zeros = [_is_zero(call, node) for node in states]
    if any(zero and node.name not in call.build.views for zero, node in zip(zeros, states)) and not all(zeros):
        raise Refused(READS_PARAMETER)
    return [] if all(zeros) else states


def _state(call: Call, node: fx.Node, rows: int, hidden: int, sequences: tuple[Atom, ...]) -> str:
    """The value of a state [layers * directions, batch, hidden]: a row for each. sequences: the dimension of the batch."""
    view = call.rows(node)
    if not _meets(view, 1, sequences):
        raise Refused("layout: its state has other samples than its input")
    if not layout.same_layout(view, call.build._dense_like(view)):
        view = call.build.packed(view)
    buffer = call.build.buffers[view.base]
    if buffer.elements != rows * hidden or not call.build.pin(view.base, hidden):
        raise Refused("layout: its state has another shape than [layers, batch, hidden]")
    return view.base


def _all_are(call: Call, node: fx.Node, time: int) -> bool:
    """Whether lengths are constant, and all those of whole sequences. Raises Refused for others that are constant."""
    constant = call.repeated(node)
    if constant is not None and not bool((constant == time).all()):
        raise Refused("has lengths that never change, and are shorter than its input")
    return constant is not None


def _lengths(call: Call, node: fx.Node, batch: int, sequences: tuple[Atom, ...]) -> str:
    """The value of lengths [batch], a row for each sequence."""
    view = call.stored(node)
    if not _meets(view, 0, sequences):
        raise Refused("layout: its lengths have other samples than its input")
    if not layout.same_layout(view, call.build._dense_like(view)):
        view = call.build.packed(view)
    if call.build.buffers[view.base].elements != batch or not call.build.pin(view.base, 1):
        raise Refused("layout: its lengths have another shape than [batch]")
    return view.base


def _recurrent(call: Call, op: str, states: list[fx.Node], gates: int, lengths: fx.Node | None = None) -> OpNode | str:
    layers, directions = call["num_layers"], 2 if call["bidirectional"] else 1
    tensors, hidden = _weights(call, layers, directions, gates, call["has_biases"])
    view, time, batch, batch_first = _sequence(call, call["batch_first"])
    sequences = _sequences(view, call["batch_first"])
    # Where samples lie inside the value, a batch of one is the same in either order.
    batch_first = 1 if batch == 1 else batch_first
    rows = layers * directions * batch
    counted = [] if lengths is None or _all_are(call, lengths, time) else [_lengths(call, lengths, batch, sequences)]
    reads = [_state(call, node, rows, hidden, sequences) for node in _read(call, states)]
    attrs = {
        "hidden": hidden, "layers": layers, "directions": directions, "time": time, "batch": batch,
        "batch_first": batch_first, "last_only": 0,
    }  # fmt: skip
    if counted and call["longest"]:
        attrs["longest"] = 1
    parts = {user.args[1]: user for user in call.node.users}
    writes = []
    for index, value in enumerate(call.node.meta["val"]):
        node = parts.get(index)
        if index == 0:
            width = hidden * directions
            dims = (*view.dims[:-1], (Atom(width, 1),))
            seen = View("", dims) if not view.base else call.build.scaled(view, "", width)
            elements = time * batch * width
        else:
            width, elements = hidden, rows * hidden
            shape = hints(value.shape)
            middle = len(shape) - 2
            open_batch = view.batch_dim is not None and len(shape) == 3
            dims = tuple(
                sequences if _joined(sequences) and i == middle
                else (Atom(size, 0, True),) if open_batch and i == middle else (Atom(size, 0),)
                for i, size in enumerate(shape)
            )  # fmt: skip
            seen = call.build._dense_like(View("", dims))
        if node is None:
            writes.append(f"{call.node.name}:unread{index}")
            continue
        writes.append(call.give(node, seen, elements, width))
    if all(name.startswith(f"{call.node.name}:unread") for name in writes[1:]) and not reads:
        writes = writes[:1]
    for name in writes:
        if ":unread" in name:
            index = int(name[-1])
            width = hidden * (directions if index == 0 else 1)
            call.build.buffers[name] = Buffer((time * batch if index == 0 else rows) * width, width)
    read = [view.base, *counted, *reads]
    return OpNode(op, call.node, module_name(call.node), read, writes, tensors=tensors, attrs=attrs)


def _cell(call: Call, op: str, states: list[fx.Node], gates: int) -> OpNode | str:
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    given = {n: call.constant(call[n]) for n in names}
    if given["w_ih"] is None or given["w_hh"] is None:
        return "its weights are computed"
    w_ih, w_hh = given["w_ih"].float(), given["w_hh"].float()
    hidden = w_hh.shape[1]
    zero = torch.zeros(gates * hidden, device="cpu")
    tensors = {"weight_ih_l0": w_ih, "weight_hh_l0": w_hh}
    for n in ("b_ih", "b_hh"):
        bias = given[n]
        tensors[f"bias_{n[2:]}_l0"] = zero if bias is None else bias.float()
    view = call.rows(call["input"])
    batch = call.build.buffers[view.base].steps
    reads = []
    for node in _read(call, states):
        state = call.rows(node)
        if call.build.buffers[state.base].steps != batch or not layout.same_samples(view.dims, state.dims):
            return "layout: has a state of other samples than its input"
        lead = call.build.scaled(view, state.base, hidden)
        if not layout.same_layout(state, lead):  # its rows in the order of those of the input
            state = call.build.packed(state, order=lead, width=hidden)
        reads.append(state.base)
    attrs = {
        "hidden": hidden, "layers": 1, "directions": 1, "time": 1, "batch": batch, "batch_first": 0, "last_only": 0,
    }  # fmt: skip
    seen = call.build.scaled(view, "", hidden)
    read = [view.base, *reads]
    # A cell gives its new h once; as a layer it gives y and h, which are the same numbers.
    unread = f"{call.node.name}:y"
    call.build.buffers[unread] = Buffer(batch * hidden, hidden)
    if len(states) == 1:
        writes = [unread, call.give(call.node, seen, batch * hidden, hidden)]
    else:
        parts = {user.args[1]: user for user in call.node.users}
        writes = [unread]
        for index in range(2):
            part = parts.get(index)
            name = f"{call.node.name}:unread{index}"
            call.build.buffers[name] = Buffer(batch * hidden, hidden)
            writes.append(name if part is None else call.give(part, seen, batch * hidden, hidden))
    return OpNode(op, call.node, module_name(call.node), read, writes, tensors=tensors, attrs=attrs)


def _states(call: Call) -> list[fx.Node]:
    return list(call["hx"]) if isinstance(call["hx"], (list, tuple)) else [call["hx"]]


def _rules(op: str, gates: int) -> None:
    """For layers of an operator, and for its cells: torch names both as it."""
    rule(getattr(aten, op).input)(lambda call: _recurrent(call, op, _states(call), gates))
    rule(PACKED[op])(lambda call: _recurrent(call, op, _states(call), gates, call["lengths"]))
    rule(getattr(aten, f"{op}_cell").default)(lambda call: _cell(call, op, _states(call), gates))


for _op, _gates in (("lstm", 4), ("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1)):
    _rules(_op, _gates)
