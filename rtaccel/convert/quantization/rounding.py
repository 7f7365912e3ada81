"""Weights rounded for the inputs that calibration data shows, where a scheme asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.scheme_rules import LayerPlan, takes_schemes
from rtaccel.convert.quantization.value_statistics import ValueStatistics
from rtaccel.convert.weights.gptq import round_int4, round_int8
from rtaccel.convert.weights.prune import InputStatistics, corrected_bias
from rtaccel.core.errors import FormatError
from rtaccel.core.layer_forms import LayerForm
from rtaccel.core.scheme import W4A8, W4A16, Scheme
from rtaccel.core.scheme import Rounded as RoundedScheme
from rtaccel.formats import int4, int8

Rounded = tuple[Mapping[str, Tensor], Mapping[str, Any], Tensor]
"""The stored weight of a layer, further attributes of its stage, and its bias."""


def rounds(scheme: Scheme) -> bool:
    """Whether a scheme asks for more than rounding to the nearest."""
    return isinstance(scheme, RoundedScheme) and scheme.rounding != "nearest"


def _is_linear(op_node: OpNode) -> bool:
    weight = op_node.tensors.get("weight")
    return op_node.operator.sparse.is_matrix and weight is not None and weight.dim() == 2 and not op_node.swapped


def reads_of(graph: OpGraph, schemes: Callable[[str], Scheme]) -> list[tuple[str, int]]:
    """(value, K) that layers read whose weights are to be rounded so."""
    found = []
    for op_node in graph.op_nodes:
        if op_node.is_fallback or not takes_schemes(op_node.operator):
            continue
        scheme = schemes(op_node.name)
        if rounds(scheme.inner if isinstance(scheme, LayerForm) else scheme) and _is_linear(op_node):
            found.append((op_node.reads[0], op_node.tensors["weight"].shape[1]))
    return found


def with_rounding(
    graph: OpGraph,
    layers: dict[str, LayerPlan],
    sampled: Mapping[str, Tensor],
    statistics: Mapping[str, ValueStatistics],
    known: dict[tuple[str, str], Rounded],
    notes: list[str],
) -> OpGraph:
    """The graph with the biases of the layers rounded for their inputs; `layers` get the stored weights.

    sampled: rows of values that calibration did not see; statistics: of those that it did. known: what was rounded before.
    Raises FormatError for such a layer without calibration data.
    """
    op_nodes = []
    for op_node in graph.op_nodes:
        layer = layers.get(op_node.writes[0])
        if layer is None or not rounds(layer.scheme):
            op_nodes.append(op_node)
            continue
        seen = _statistics(op_node, sampled, statistics)
        if seen is None:
            if not statistics and not sampled:
                raise FormatError(
                    "compile", f"{layer.scheme!r} for {op_node.name} without calibration data",
                    "calibration= with batches of real inputs", "Pass some, or take rounding='nearest'.",
                )  # fmt: skip
            notes.append(f"{op_node.name} is rounded to the nearest: rounding for inputs is for linear layers")
            op_nodes.append(op_node)
            continue
        key = op_node.writes[0], f"{layer.scheme!r} {id(op_node.tensors['weight'])}"
        if key not in known:
            known[key] = rounded_weight(op_node.tensors["weight"], op_node.tensors.get("bias"), layer.scheme, seen)
        tensors, attrs, bias = known[key]
        layers[op_node.writes[0]] = replace(layer, stored=(tensors, attrs))
        op_nodes.append(replace(op_node, tensors={**op_node.tensors, "bias": bias}))
    return replace(graph, op_nodes=tuple(op_nodes))


def _statistics(
    op_node: OpNode, sampled: Mapping[str, Tensor], statistics: Mapping[str, ValueStatistics]
) -> InputStatistics | None:
    if not _is_linear(op_node):
        return None
    rows = sampled.get(op_node.reads[0])
    if rows is not None:
        x = rows.double()
        return InputStatistics.of_dense(x.T @ x / max(len(x), 1), x.mean(0), len(x))
    seen = statistics.get(op_node.reads[0])
    return None if seen is None else seen.inputs()


def rounded_weight(weight: Tensor, bias: Tensor | None, scheme: Scheme, statistics: InputStatistics) -> Rounded:
    """A float32 weight [N, K] rounded as the scheme says. The bias is always there."""
    assert isinstance(scheme, RoundedScheme)
    bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device) if bias is None else bias
    if isinstance(scheme, (W4A8, W4A16)):
        size = scheme.group_size
        for_inputs = scheme.rounding == "gptq"
        packed, scale = round_int4(weight, statistics, size) if for_inputs else int4.quantize_weight(weight, size)
        left = int4.dequantize(packed, scale, weight.shape[1], size)
        return (
            {"weight": packed, "group_scale": scale},
            {"group_size": size},
            corrected_bias(weight, left, bias, statistics),
        )
    q, scale = round_int8(weight, statistics) if scheme.rounding == "gptq" else int8.quantize_weight(weight)
    left = q.double() * scale.double()[:, None]
    return {"weight": q, "weight_scale": scale}, {}, corrected_bias(weight, left, bias, statistics)
