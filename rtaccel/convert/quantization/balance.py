"""Columns evened out between two layers: the first divides its results by factors, the second multiplies its weights by them.

    y = W2 act(W1 x + b1),   act(t / s) = act(t) / s for s > 0,   so   y = (W2 s) act((W1 x + b1) / s)

for ReLU, LeakyReLU and no activation. Factors by weights bring the largest number of a row of W1 and of a column of W2 together
(M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019); those by activations move half
of the difference between the columns of the value into the weights (G. Xiao et al., "SmoothQuant", 2023). A scheme asks for
them for the second layer (rtaccel.core.scheme.Rounded).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.batches import batches_of
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.calibrate import as_args, run_graph
from rtaccel.core.errors import FormatError
from rtaccel.core.layer_forms import LayerForm
from rtaccel.core.scheme import Rounded, Scheme
from rtaccel.formats.observe import RangeObserver

SWEEPS = 8
"""Over all pairs by weights: the rows of one pair are the columns of the next."""

MOST = 64.0
"""Farthest that a factor is from the middle one."""

_ACTIVATIONS = ("none", "relu", "leaky_relu")
_CONVOLUTIONS = {
    aten.conv1d.default: 2, aten.conv1d.padding: 2, aten.conv2d.default: 3, aten.conv2d.padding: 3,
    aten.conv3d.default: 4, aten.conv3d.padding: 4,
}  # fmt: skip
"""Where their channels are, counted from the last dimension."""

_PRODUCTS = (aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default)


@dataclass(frozen=True)
class Pair:
    """Indices of two nodes, the value between them, and the dimension of its tensor that holds the columns."""

    first: int
    second: int
    value: str
    dim: int
    by: str


class ScaledObserver(RangeObserver):
    """Sees a value as it is after its columns, along `dim`, were divided by `factor`."""

    def __init__(self, name: str, factor: Tensor, dim: int) -> None:
        super().__init__(name)
        self._factor, self._dim = factor, dim

    def observe(self, x: Tensor) -> None:
        super().observe((x.movedim(self._dim, -1) / self._factor.to(x.device)) if x.numel() else x)

    @property
    def depends(self) -> str:
        return f"balanced {float(self._factor.double().log().square().sum())!r} {float(self._factor.double().sum())!r}"


class _Peaks:
    """The largest |x| of each column that calibration shows."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self.peak: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        if x.numel():
            found = x.detach().float().movedim(self._dim, -1).flatten(0, -2).abs().amax(0).cpu()
            self.peak = found if self.peak is None else torch.maximum(self.peak, found)


@dataclass(frozen=True)
class Balanced:
    """The graph with the factors in its weights. factors: by value, with the dimension of the tensor that they are along."""

    graph: OpGraph
    factors: Mapping[str, tuple[Tensor, int]]

    def observers(self) -> dict[str, ScaledObserver]:
        """Of the values that were divided, by the name of their graph node."""
        return {_node(v): ScaledObserver(v, factor, dim) for v, (factor, dim) in self.factors.items()}


def balanced(
    exported: ExportedGraph,
    graph: OpGraph,
    schemes: Callable[[str], Scheme],
    calibration: Any,
    known: dict[tuple[Pair, ...], tuple[dict[int, dict[str, Tensor]], dict[str, tuple[Tensor, int]]]],
    notes: list[str],
) -> Balanced:
    """known: what was made before for the same pairs. Raises FormatError by activations without calibration data."""
    pairs = _pairs(exported, graph, schemes, notes)
    if not pairs:
        return Balanced(graph, {})
    key = tuple(pairs)
    if key not in known:
        known[key] = _factored(graph, pairs, _peaks(exported, pairs, calibration, graph))
    tensors, factors = known[key]
    op_nodes = [replace(d, tensors=tensors[i]) if i in tensors else d for i, d in enumerate(graph.op_nodes)]
    for pair in pairs:
        factor = factors[pair.value][0]
        apart = float(factor.max() / factor.min())
        first, second = graph.op_nodes[pair.first].name, graph.op_nodes[pair.second].name
        notes.append(f"{second} is balanced with {first} by {pair.by}: factors up to {apart:.3g} apart")
    return Balanced(replace(graph, op_nodes=tuple(op_nodes)), factors)


def _pairs(exported: ExportedGraph, graph: OpGraph, schemes: Callable[[str], Scheme], notes: list[str]) -> list[Pair]:
    nodes = {node.name: node for node in exported.graph.nodes}
    made = {d.writes[0]: i for i, d in enumerate(graph.op_nodes)}
    kept = graph.kept
    found = []
    for index, op_node in enumerate(graph.op_nodes):
        scheme = schemes(op_node.name)
        scheme = scheme.inner if isinstance(scheme, LayerForm) else scheme
        if not isinstance(scheme, Rounded) or scheme.balance is None or not _weighted(op_node):
            continue
        value = op_node.reads[0]
        first = made.get(value, -1)
        read = sum(d.reads.count(value) for d in graph.op_nodes)
        dim = None
        if first >= 0 and read == 1 and value not in kept and _gives(graph.op_nodes[first]):
            dim = _columns(nodes.get(_node(value)))
        if dim is None or graph.op_nodes[first].tensors["weight"].shape[0] != _channels(op_node):
            if value not in exported.inputs:
                notes.append(f"{op_node.name} is not balanced: no layer before it can take the factors")
            continue
        found.append(Pair(first, index, value, dim, scheme.balance))
    return found


def _weighted(op_node: OpNode) -> bool:
    """Whether it is a linear layer or convolution with float32 weights."""
    if op_node.is_fallback or op_node.swapped or op_node.operator.folding is None:
        return False
    weight = op_node.tensors.get("weight")
    return weight is not None and weight.dim() >= 2 and op_node.operator.folding.after is not None


def _gives(op_node: OpNode) -> bool:
    """Whether its results can be divided by factors inside of it."""
    alone = not {*op_node.reads[1:]} - {*op_node.writes}  # no residual
    return _weighted(op_node) and alone and op_node.activation in _ACTIVATIONS and "bias" in op_node.tensors


def _channels(op_node: OpNode) -> int:
    return op_node.tensors["weight"].shape[1] * int(op_node.attrs.get("groups", 1))


def _columns(node: fx.Node | None) -> int | None:
    """The dimension of a value's tensor that holds the outputs of the layer it comes from; None where that is not plain."""
    while node is not None and (shape := _shape(node)) is not None:
        if node.target in _CONVOLUTIONS:
            return -_CONVOLUTIONS[node.target]
        if node.target in _PRODUCTS:
            return -1
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or _shape(before) != shape:
            return None
        node = before
    return None


def _shape(node: fx.Node) -> torch.Size | None:
    """Of its tensor; of the first where it gives several."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return first.shape if isinstance(first, Tensor) else None


def _peaks(exported: ExportedGraph, pairs: list[Pair], calibration: Any, graph: OpGraph) -> dict[str, Tensor]:
    wanted = {pair.value: _Peaks(pair.dim) for pair in pairs if pair.by == "activations"}
    if not wanted:
        return {}
    if calibration is None:
        name = next(graph.op_nodes[pair.second].name for pair in pairs if pair.by == "activations")
        raise FormatError(
            "compile", f"balance='activations' for {name} without calibration data",
            "calibration= with batches of real inputs", "Pass some, or take balance='weights'.",
        )  # fmt: skip
    watch = {_node(value): peaks for value, peaks in wanted.items()}
    with torch.no_grad():
        for batch in batches_of("compile", calibration):
            run_graph(exported, as_args(batch), watch, {})
    return {value: peaks.peak for value, peaks in wanted.items() if peaks.peak is not None}


def _factored(
    graph: OpGraph, pairs: list[Pair], peaks: Mapping[str, Tensor]
) -> tuple[dict[int, dict[str, Tensor]], dict[str, tuple[Tensor, int]]]:
    """The tensors of the nodes, by index, and the factors of the values."""
    weights: dict[int, Tensor] = {}
    for pair in pairs:
        for index in (pair.first, pair.second):
            weights.setdefault(index, graph.op_nodes[index].tensors["weight"].detach().double())
    total = {pair.value: torch.ones(_channels(graph.op_nodes[pair.second]), dtype=torch.float64) for pair in pairs}
    biases = {pair.first: graph.op_nodes[pair.first].tensors["bias"].detach().double() for pair in pairs}
    for sweep in range(SWEEPS):
        for pair in pairs:
            if pair.by == "activations" and sweep:
                continue
            rows, groups = weights[pair.first], int(graph.op_nodes[pair.second].attrs.get("groups", 1))
            of_rows = peaks[pair.value].double() if pair.by == "activations" else rows.flatten(1).abs().amax(1)
            factor = _factor(of_rows, _column_peaks(weights[pair.second], groups))
            total[pair.value] = total[pair.value] * factor
            weights[pair.first] = rows / factor.reshape(-1, *[1] * (rows.dim() - 1))
            biases[pair.first] = biases[pair.first] / factor
            weights[pair.second] = _scaled_columns(weights[pair.second], factor, groups)
    tensors = {}
    for index, weight in weights.items():
        made = {"weight": weight.float()} | ({"bias": biases[index].float()} if index in biases else {})
        tensors[index] = {**graph.op_nodes[index].tensors, **made}
    return tensors, {pair.value: (total[pair.value].float(), pair.dim) for pair in pairs}


def _factor(first: Tensor, second: Tensor) -> Tensor:
    """sqrt(first / second) of each column, near the middle one; 1 where there is nothing on a side."""
    known = (first > 2.0**-100) & (second > 2.0**-100)
    factor = torch.where(known, (first.clamp_min(2.0**-100) / second.clamp_min(2.0**-100)).sqrt(), 1.0)
    if not known.any():
        return factor
    middle = factor[known].median()
    return torch.where(known, factor.clamp(middle / MOST, middle * MOST), 1.0)


def _column_peaks(weight: Tensor, groups: int) -> Tensor:
    n, c = weight.shape[:2]
    return weight.reshape(groups, n // groups, c, -1).abs().amax((1, 3)).reshape(-1)


def _scaled_columns(weight: Tensor, factor: Tensor, groups: int) -> Tensor:
    n, c = weight.shape[:2]
    parts = weight.reshape(groups, n // groups, c, -1) * factor.reshape(groups, 1, c, 1)
    return parts.reshape(weight.shape)


def _node(value: str) -> str:
    return value.split(":")[0]
