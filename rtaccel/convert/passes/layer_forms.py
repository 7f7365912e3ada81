"""Layers in another form before their weights are stored: pruned and solved anew, or as two factors of low rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import Buffer, OpNode, zeros_like_rows
from rtaccel.convert.quantization.scheme_rules import takes_schemes
from rtaccel.convert.quantization.value_statistics import ValueStatistics
from rtaccel.convert.weights.prune import DAMPING, InputStatistics, corrected_bias, magnitude, output_error, refit
from rtaccel.core.layer_forms import LayerForm, LowRank, Pruned
from rtaccel.core.scheme import Scheme
from rtaccel.core.stage import QParams
from rtaccel.formats.observe import RangeObserver

Schemes = Callable[[str], Scheme]


class FormedLayers:
    """The graph with the layers that a form is asked for replaced, and the scheme of each layer after.

    sampled: values that did not exist when calibration data was seen, with rows of them.
    """

    def __init__(self, graph: OpGraph, schemes: Schemes, ranges: dict[tuple[str, str, str], QParams]) -> None:
        """ranges: what was found before, by value, observer and what else it depends on."""
        self.graph, self._schemes, self._ranges = graph, schemes, ranges
        self.sampled: dict[str, Tensor] = {}
        self._inner: dict[str, Scheme] = {}

    def scheme(self, name: str) -> Scheme:
        found = self._inner.get(name)
        if found is None:
            found = self._schemes(name)
        return found.inner if isinstance(found, LayerForm) else found

    def quant(self, value: str, observer: str) -> QParams | None:
        """Of a value of these layers, as calibration would find it; None of any other, or without data."""
        rows = self.sampled.get(value)
        if rows is None:
            return None
        key = value, observer, f"rank {rows.shape[1]} {id(rows)}"  # the rows are kept as long as the ranges
        if key not in self._ranges:
            seen = RangeObserver(value)
            seen.observe(rows)
            self._ranges[key] = seen.quant(observer)  # type: ignore[arg-type]
        return self._ranges[key]


def widths(graph: OpGraph, schemes: Schemes) -> list[tuple[str, int]]:
    """(value, K) that the layers with a form read."""
    return [
        (op_node.reads[0], op_node.tensors["weight"].shape[1])
        for op_node in graph.op_nodes
        if _form(op_node, schemes) is not None and _why_not(op_node) is None
    ]


def with_forms(
    graph: OpGraph,
    schemes: Schemes,
    statistics: Mapping[str, ValueStatistics],
    notes: list[str],
    known: dict[tuple[str, str], tuple[tuple[OpNode, ...], Tensor | None, str]],
    ranges: dict[tuple[str, str, str], QParams],
) -> FormedLayers:
    """The layers of the graph in the forms that the schemes ask for. known: what was made before, by value and form; ranges: as
    FormedLayers has them."""
    made = FormedLayers(graph, schemes, ranges)
    op_nodes: list[OpNode] = []
    buffers = dict(graph.buffers)
    for op_node in graph.op_nodes:
        form = _form(op_node, schemes)
        if form is None:
            op_nodes.append(op_node)
            continue
        why_not = _why_not(op_node)
        if why_not is not None:
            notes.append(f"{op_node.name} is computed as {form.inner}, not in the form {form}: {why_not}")
            op_nodes.append(op_node)
            continue
        key = op_node.writes[0], repr(form)
        if key not in known:
            known[key] = _formed(op_node, form, statistics.get(op_node.reads[0]))
        found, rows, note = known[key]
        notes.append(note)
        op_nodes.extend(found)
        for part in found:
            made._inner[part.name] = form.inner
        if len(found) > 1:
            inner, source = found[0].writes[0], buffers[op_node.writes[0]]
            steps, rank = source.elements // op_node.tensors["weight"].shape[0], found[0].tensors["weight"].shape[0]
            buffers[inner] = Buffer(steps * rank, rank)
            if rows is not None:
                made.sampled[inner] = rows
    made.graph = replace(graph, op_nodes=tuple(op_nodes), buffers=buffers)
    return made


def _form(op_node: OpNode, schemes: Schemes) -> LayerForm | None:
    if op_node.is_fallback or not takes_schemes(op_node.operator):
        return None
    found = schemes(op_node.name)
    return found if isinstance(found, LayerForm) else None


def _why_not(op_node: OpNode) -> str | None:
    weight = op_node.tensors.get("weight")
    if not op_node.operator.sparse.is_matrix or weight is None or weight.dim() != 2 or len(op_node.reads) != 1:
        return "that is for linear layers"
    return "its weights are quantized already" if op_node.swapped else None


def _formed(
    op_node: OpNode, form: LayerForm, seen: ValueStatistics | None
) -> tuple[tuple[OpNode, ...], Tensor | None, str]:
    """The nodes in its place, rows of the value between them, and a note."""
    weight = op_node.tensors["weight"]
    bias = op_node.tensors.get("bias")
    bias = zeros_like_rows(weight) if bias is None else bias
    statistics = None if seen is None else seen.inputs()
    if isinstance(form, Pruned):
        method = magnitude if statistics is None else refit
        left = method(weight.cpu(), form.sparsity, statistics)
        bias = bias if statistics is None else corrected_bias(weight, left, bias, statistics)
        zeros = 1 - int(torch.count_nonzero(left)) / left.numel()
        note = f"{op_node.name} is pruned to {zeros:.1%} zeros ({form.sparsity}){_lost(weight, left, statistics)}"
        tensors = {**op_node.tensors, "weight": left, "bias": bias}
        return (replace(op_node, tensors=tensors),), None, note
    assert isinstance(form, LowRank)
    rank = form.rank(*weight.shape)
    inner, outer = factors(weight, rank, statistics)
    product = (outer.double() @ inner.double()).float()
    bias = bias if statistics is None else corrected_bias(weight, product, bias, statistics)
    note = f"{op_node.name} is two layers of rank {rank}{_lost(weight, product, statistics)}"
    between = f"{op_node.writes[0]}:rank"
    plain = {**op_node.attrs, "activation": "none"}
    first = replace(
        op_node, name=f"{op_node.name}.first", writes=[between], attrs=plain,
        tensors={"weight": inner, "bias": zeros_like_rows(inner)},
    )  # fmt: skip
    second = replace(
        op_node, name=f"{op_node.name}.second", reads=[between], tensors={"weight": outer, "bias": bias}
    )  # fmt: skip
    return (first, second), None if seen is None else seen.sample() @ inner.T, note


def factors(weight: Tensor, rank: int, statistics: InputStatistics | None) -> tuple[Tensor, Tensor]:
    """A [r, K] and B [N, r] whose product is nearest to W [N, K] in what it makes of the inputs, or nearest without data."""
    w = weight.double().cpu()
    if statistics is None:
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        root = s[:rank].sqrt()
        return (root[:, None] * vh[:rank]).float().contiguous(), (u[:, :rank] * root).float().contiguous()
    mean = statistics.mean.double()
    covariance = statistics.second.double() - torch.outer(mean, mean)
    covariance.diagonal().add_(DAMPING * covariance.diagonal().mean().clamp_min(1e-12))
    lower = torch.linalg.cholesky(covariance)
    u, s, vh = torch.linalg.svd(w @ lower, full_matrices=False)
    inner = torch.linalg.solve_triangular(lower, vh[:rank], upper=False, left=False)
    return inner.float().contiguous(), (u[:, :rank] * s[:rank]).float().contiguous()


def _lost(weight: Tensor, left: Tensor, statistics: InputStatistics | None) -> str:
    if statistics is None:
        part = (weight.double() - left.double()).norm() / weight.double().norm().clamp_min(1e-300)
        return f", {float(part):.1%} off in its weights (no calibration data)"
    shift = statistics.dense_mean.double() @ (weight.double() - left.double()).T
    return f", its outputs {output_error(weight, left, shift, statistics):.1%} off on calibration data"
