"""Input columns of one range: the int8 scale of a tensor is that of its widest column, and narrow ones lose by it.

A model input that one layer alone reads may be multiplied by a number for each column on its way to int8, and the
layer's weights divided by it: the products are the same, and the pass that writes int8 takes 0.1 us more for 640 columns.
Whether it serves is decided by what the layer makes of calibration data: where wide columns carry the sums, nothing is
gained. And half of the data, evened by what the other half shows, must not lose: ranges that few rows have shown are too
small, and clip what comes later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.scheme_rules import LayerPlan
from rtaccel.core.scheme import Observer
from rtaccel.core.stage import QParams
from rtaccel.formats import int8
from rtaccel.formats.observe import SAMPLE, RangeObserver

WIDEST = 64.0
"""Most that a column is widened: one that calibration shows nearly still keeps some room for what it did not show."""

MAX_TIME_RATIO = 0.75
"""Evened where the error of the layer's sums becomes at most this part of what it was: less is within chance."""


class ColumnObserver(RangeObserver):
    """Sees a model input [..., K] and tries it evened, against `weight` [N, K].

    factor: after `quant`, what each column is multiplied by, [K]; None where the input stays as it is.
    """

    def __init__(self, name: str, weight: Tensor) -> None:
        super().__init__(name)
        self.weight = weight
        self.factor: Tensor | None = None
        self._rows = torch.empty(0, weight.shape[1], dtype=torch.float32, device="cpu")
        self._low = self._high = torch.zeros(weight.shape[1], dtype=torch.float32, device="cpu")
        self._most = max(1, SAMPLE // weight.shape[1])

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        if not x.numel():
            return
        rows = x.detach().float().reshape(-1, self.weight.shape[1])
        self._low, self._high = torch.minimum(self._low, rows.amin(0)), torch.maximum(self._high, rows.amax(0))
        self._rows = torch.cat([self._rows, rows])
        if len(self._rows) > 2 * self._most:
            self._rows = self._rows[
                torch.randperm(len(self._rows), generator=self._generator, device="cpu")[: self._most]
            ]

    def quant(self, observer: Observer) -> QParams:
        plain = super().quant(observer)
        seen = torch.cat([self._rows, self._low[None], self._high[None]])
        if not seen.abs().max() > int8.TINY:
            return plain
        factor = _factor(seen)
        quant = self._quant(seen * factor, observer)
        as_it_is = torch.ones_like(factor)
        if self._error(self._rows, factor, quant) > MAX_TIME_RATIO * self._error(self._rows, as_it_is, plain):
            return plain
        fit_rows, holdout_rows = self._rows[::2], self._rows[1::2]
        if not len(holdout_rows) or not fit_rows.abs().max() > int8.TINY:
            return plain
        equalized, alone = (
            self._error(holdout_rows, f, self._quant(fit_rows * f, observer)) for f in (_factor(fit_rows), as_it_is)
        )
        if equalized > alone:
            return plain
        self.factor = factor
        return quant

    def _quant(self, rows: Tensor, observer: Observer) -> QParams:
        seen = RangeObserver(self.name)
        seen.observe(rows)
        return seen.quant(observer)

    def _error(self, rows: Tensor, factor: Tensor, quant: QParams) -> float:
        """Of the layer's sums over these rows, with inputs and weights in int8: root of the mean square."""
        q, scale = int8.quantize_weight(self.weight / factor)
        x = int8.dequantize(int8.quantize(rows * factor, quant), quant)
        wrong = x @ (q.float() * scale[:, None]).T - rows @ self.weight.T
        return float(wrong.square().mean().sqrt())


def _factor(rows: Tensor) -> Tensor:
    """What brings each column to one range, as these rows show it."""
    peak = rows.abs().amax(0)
    widest = peak.max()
    return 1 / torch.where(peak > 0, peak.clamp(min=float(widest) / WIDEST), widest)  # never seen: as it was


def column_observers(
    exported: ExportedGraph, graph: OpGraph, layers: Mapping[str, LayerPlan], streamed: bool
) -> dict[str, ColumnObserver]:
    """One for each model input whose columns may be evened, by name: float32, and read by one layer alone, with a scheme that
    allows it."""
    nodes = {node.name: node for node in exported.graph.nodes}
    found: dict[str, ColumnObserver] = {}
    for op_node in graph.op_nodes:
        layer = layers.get(op_node.writes[0])
        if layer is None or layer.observer is None or not _read(op_node):
            continue
        name = op_node.reads[0]
        once = sum(d.reads.count(name) for d in graph.op_nodes) == 1
        if name not in exported.inputs or not once or not layer.scheme.evens_columns:
            continue
        weight = torch.cat([op_node.tensors[key] for key in _read(op_node)])
        if _columns(nodes[name], weight.shape[1], streamed):
            found[name] = ColumnObserver(name, weight)
    return found


def _columns(node: fx.Node, width: int, streamed: bool) -> bool:
    """Whether the last dimension of an input is what the layer multiplies. The windows of a stream may have their
    features elsewhere, and are then known by the size."""
    shape: Sequence[object] = node.meta["val"].shape
    return shape[-1] == width and (not streamed or list(shape).count(width) == 1)


def _read(op_node: OpNode) -> Sequence[str]:
    """Names of the weights that multiply the columns of the input."""
    weights = op_node.operator.weights
    return () if weights is None else weights.of_input(op_node.tensors)


def equalize_columns(op_node: OpNode, factor: Tensor) -> OpNode:
    """The node for inputs that are multiplied by `factor`."""
    divided = {key: (op_node.tensors[key].double() / factor.double()).float() for key in _read(op_node)}
    return replace(op_node, tensors={**op_node.tensors, **divided})
