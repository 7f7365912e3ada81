"""What calibration shows of the inputs of convolutions and recurrent layers: second moments of what each weight multiplies.

A convolution multiplies windows of its input, with zeros where they reach beyond. A recurrent layer multiplies its input and the
state before each step, in every layer and direction. Both are seen in the calls of the captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.batches import batches_of
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.calibrate import as_args, run_graph
from rtaccel.convert.quantization.value_statistics import InputSums
from rtaccel.formats.observe import refuse_non_finite
from rtaccel.nn.packed_recurrent_ops import PACKED

WINDOWS = 4096
"""Of a convolution, from each batch: neighbors resemble each other."""

CONVOLUTIONS: Mapping[Any, int] = {
    aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv1d.padding: 1, aten.conv2d.padding: 2,
}  # fmt: skip

_LAYERS: Mapping[Any, Callable[..., Any]] = {
    aten.lstm.input: torch._VF.lstm, aten.gru.input: torch._VF.gru, aten.rnn_tanh.input: torch._VF.rnn_tanh,
}  # fmt: skip

_PACKED: Mapping[Any, Any] = {PACKED[target.name().split("::")[1].split(".")[0]]: target for target in _LAYERS}
"""The same over sequences of several lengths; padding is seen as if it were read."""

DEPTH = 6
"""Calls between a convolution and the end of the node that it became part of."""

_SAME = (
    aten.pad.default, aten.constant_pad_nd.default, aten.reshape.default, aten.view.default, aten.flatten.using_ints,
    aten.unsqueeze.default, aten.squeeze.dim,
)  # fmt: skip

_CELLS = (aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default)


class CallStatistics:
    """Sees the calls of one node, or of several that share their weights.

    sums: of what each weight multiplies, by its name in the node; a convolution has one for each group of channels.
    """

    scale = None
    note = ""

    def __init__(self, image: tuple[int, ...] | None = None) -> None:
        """image: that a product reads as one row, channels last."""
        self.sums: dict[str, list[InputSums]] = {}
        self._image = image
        self._generator = torch.Generator("cpu").manual_seed(0)

    def observe(self, node: Any, args: tuple[Any, ...], result: Any) -> None:
        """One call, as `run_graph` shows it. Raises FormatError where its input or state holds a NaN or an infinity."""
        target = node.target
        if target in _PACKED:
            x, _, hx, params, biased, layers, both, batch_first, _ = args
            target, args = _PACKED[target], (x, hx, params, biased, layers, 0.0, False, both, batch_first)
        given = args[1] if target in _LAYERS or target in _CELLS else ()
        for x in (args[0], *(given if isinstance(given, (list, tuple)) else (given,))):
            refuse_non_finite(f"the input of {node.name}", x)
        if target in CONVOLUTIONS:
            self._windows(args)
        elif target is aten.linear.default:
            rows = args[0].detach().float().reshape(-1, args[0].shape[-1])
            self._at("weight").add(_channels_last(rows, self._image) if self._image else rows)
        elif target in _LAYERS:
            self._layers(target, args)
        else:
            self._cell(args)

    def _at(self, name: str, part: int = 0) -> InputSums:
        found = self.sums.setdefault(name, [])
        while len(found) <= part:
            found.append(InputSums())
        return found[part]

    def _windows(self, args: Sequence[Any]) -> None:
        x, weight = args[0].detach().float(), args[1]
        stride, padding, dilation = (args[i] if len(args) > i else default for i, default in ((3, 1), (4, 0), (5, 1)))
        groups = args[6] if len(args) > 6 else 1
        rank = weight.dim() - 2
        if x.dim() == rank + 1:
            x = x[None]
        if rank == 1:
            x, kernel = x[:, :, None], (1, int(weight.shape[2]))
        else:
            kernel = int(weight.shape[2]), int(weight.shape[3])
        stride, dilation = _pair(stride, rank, 1), _pair(dilation, rank, 1)
        if isinstance(padding, str):
            total = [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilation, kernel)]
            x = torch.nn.functional.pad(x, [p for t in reversed(total) for p in (t // 2, t - t // 2)])
            padding = (0, 0)
        windows = max(1, x[0, 0].numel() // (stride[0] * stride[1]))
        most = max(1, 4 * WINDOWS // windows)
        if len(x) > most:
            x = x[torch.randperm(len(x), generator=self._generator, device="cpu")[:most].to(x.device)]
        columns = torch.nn.functional.unfold(
            x, kernel, dilation, _pair(padding, rank, 0), stride
        )  # [B, C * taps, windows]
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        if len(rows) > WINDOWS:
            rows = rows[torch.randperm(len(rows), generator=self._generator, device="cpu")[:WINDOWS].to(rows.device)]
        for group, part in enumerate(rows.chunk(groups, 1)):
            self._at("weight", group).add(part)

    def _layers(self, target: Any, args: Sequence[Any]) -> None:
        """input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first."""
        x, given, params, biased, layers = args[0].detach(), args[1], args[2], args[3], args[4]
        directions, batch_first = 2 if args[7] else 1, bool(args[8])
        states = list(given) if isinstance(given, (list, tuple)) else [given]
        if x.dim() == 2:
            x, states, batch_first = x[:, None], [s[:, None] for s in states], False
        if batch_first:
            x = x.transpose(0, 1)
        per = 4 if biased else 2
        for layer in range(layers):
            found = []
            for direction in range(directions):
                index = layer * directions + direction
                own = params[index * per : (index + 1) * per]
                start = [s[index : index + 1] for s in states]
                ran = x.flip(0) if direction else x
                hx = start if target is aten.lstm.input else start[0]
                y = _LAYERS[target](ran, hx, list(own), biased, 1, 0.0, False, False, False)[0]
                suffix = f"l{layer}" + ("_reverse" if direction else "")
                self._at(f"weight_ih_{suffix}").add(x)
                self._at(f"weight_hh_{suffix}").add(torch.cat([start[0], y[:-1]]))
                found.append(y.flip(0) if direction else y)
            x = torch.cat(found, -1)

    def _cell(self, args: Sequence[Any]) -> None:
        """input, hx, w_ih, w_hh, b_ih, b_hh."""
        state = args[1][0] if isinstance(args[1], (list, tuple)) else args[1]
        self._at("weight_ih_l0").add(args[0])
        self._at("weight_hh_l0").add(state)


def gather_calls(
    exported: ExportedGraph, calibration: Any, wanted: Mapping[str, tuple[str, OpNode]]
) -> dict[str, CallStatistics]:
    """wanted: (call, node) by name. By that name; those that share their weights have one together."""
    by_weight: dict[int, CallStatistics] = {}
    found, watched = {}, {}
    nodes: dict[str, Any] = {node.name: node for node in exported.graph.nodes}
    for name, (call, op_node) in wanted.items():
        first = next(t for key, t in op_node.tensors.items() if key.startswith("weight"))
        if id(first) not in by_weight:
            image = None
            if nodes[call].target is aten.linear.default:
                image = order_of(nodes[call], exported.constants[nodes[call].args[1].name], first)
            by_weight[id(first)] = CallStatistics(image)
        found[name] = watched[call] = by_weight[id(first)]
    with torch.no_grad():
        for batch in batches_of("compile", calibration):
            run_graph(exported, as_args(batch), {}, watched)
    return found


def call_of(op_node: OpNode, constants: Mapping[str, Tensor]) -> fx.Node | None:
    """The call whose arguments show what the weights of a node multiply, in the order of their columns; None where there is none.

    A node may stand for several calls, with an activation or a norm behind: the call is the only one before that has its weights.
    """
    if op_node.swapped or not op_node.reads:
        return None
    target = op_node.node.target
    if target in _LAYERS or target in _PACKED or target in _CELLS:
        return op_node.node
    weight = op_node.tensors.get("weight")
    if weight is None or op_node.attrs.get("out_rows"):
        return None
    given = op_node.reads[0].split(":")[0]
    found = [
        node for node in _before(op_node.node)
        if _matches(node, weight, constants) and (node.target is aten.linear.default or given in _names(node.args[0]))
    ]  # fmt: skip
    return found[0] if len(found) == 1 else None


def _before(last: fx.Node) -> list[fx.Node]:
    """Products and convolutions that a node is made of, with nothing of the kind in between."""
    found, todo, known = [], [(last, 0)], {last}
    while todo:
        node, depth = todo.pop()
        if node.target in CONVOLUTIONS or node.target is aten.linear.default:
            found.append(node)
        elif depth < DEPTH:
            fresh = [n for n in node.all_input_nodes if n not in known]
            known.update(fresh)
            todo += [(n, depth + 1) for n in fresh]
    return found


def _names(node: Any) -> list[str]:
    """The names that a node's input may go by: padded or not, and in other shapes."""
    found = []
    while isinstance(node, fx.Node):
        found.append(node.name)
        node = node.args[0] if node.target in _SAME else None
    return found


def _matches(node: fx.Node, weight: Tensor, constants: Mapping[str, Tensor]) -> bool:
    """Whether the columns of the weight are those that the call multiplies. A norm that was folded into a convolution scales rows
    alone; a product has to have its weight as it came, for its columns may be in another order."""
    own = node.args[1]
    given = constants.get(own.name) if isinstance(own, fx.Node) else None
    if given is None or given.numel() != weight.numel() or len(given) != len(weight):
        return False
    return node.target in CONVOLUTIONS or order_of(node, given, weight) is not None


def order_of(node: fx.Node, given: Tensor, weight: Tensor) -> tuple[int, ...] | None:
    """() where the columns of a product's weight are as they came, else the image that they are the elements of, channels last;
    None where neither is so."""
    if torch.equal(given.float(), weight):
        return ()
    shape = _image(node)
    return shape if shape is not None and torch.equal(_channels_last(given.float(), shape), weight) else None


def _image(node: fx.Node) -> tuple[int, ...] | None:
    """Channels and size of the image that a product reads as one row."""
    inner: Any = node.args[0]
    while isinstance(inner, fx.Node) and inner.target in _SAME:
        inner = inner.args[0]
    value = inner.meta.get("val") if isinstance(inner, fx.Node) else None
    if (
        not isinstance(value, Tensor)
        or value.dim() not in (3, 4)
        or not all(isinstance(n, int) for n in value.shape[1:])
    ):
        return None
    return tuple(value.shape[1:])


def _channels_last(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows [.., C * H * W] as they lie channels last."""
    return rows.reshape(-1, *shape).movedim(1, -1).reshape(len(rows), -1)


def _pair(value: Any, rank: int, across: int) -> tuple[int, int]:
    """Of two dimensions, the first `across` where a sequence has none."""
    given = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)] * rank
    given = given * rank if len(given) < rank else given
    return (across, given[0]) if rank == 1 else (given[0], given[1])
