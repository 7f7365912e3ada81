"""Weights rounded for the inputs that calibration data shows, where a scheme asks for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.call_statistics import CallStatistics, call_of
from rtaccel.convert.quantization.scheme_rules import LayerPlan, Stored, takes_schemes
from rtaccel.convert.quantization.value_statistics import ValueStatistics
from rtaccel.convert.weights.gptq import round_int4, round_int8
from rtaccel.convert.weights.prune import InputStatistics, corrected_bias
from rtaccel.core.errors import FormatError
from rtaccel.core.layer_forms import LayerForm
from rtaccel.core.scheme import W4A8, W4A16, Scheme
from rtaccel.core.scheme import Rounded as RoundedScheme
from rtaccel.formats import int4, int8

Rounded = tuple[Mapping[str, Stored], Mapping[str, Tensor]]
"""How the weights of a layer are stored, by their names, and its biases."""


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


def calls_of(
    exported: ExportedGraph, graph: OpGraph, schemes: Callable[[str], Scheme], rows: Collection[str]
) -> dict[str, tuple[str, OpNode]]:
    """What a node writes -> the call that shows what its weights multiply, and the node: convolutions and recurrent layers, and
    products that read an image, whose weights are to be rounded so. rows: values whose rows are seen already."""
    found = {}
    for op_node in graph.op_nodes:
        known = op_node.is_fallback or (_is_linear(op_node) and op_node.reads[0] in rows)
        if known or not takes_schemes(op_node.operator):
            continue
        scheme = schemes(op_node.name)
        if rounds(scheme.inner if isinstance(scheme, LayerForm) else scheme):
            call = call_of(op_node, exported.constants)
            if call is not None:
                found[op_node.writes[0]] = call.name, op_node
    return found


def with_rounding(
    graph: OpGraph,
    layers: dict[str, LayerPlan],
    sampled: Mapping[str, Tensor],
    statistics: Mapping[str, ValueStatistics],
    calls: Mapping[str, CallStatistics],
    divided: Mapping[str, Tensor],
    calibrated: bool,
    known: dict[tuple[str, str], Rounded],
    notes: list[str],
) -> OpGraph:
    """The graph with the biases of the layers rounded for their inputs; `layers` get the stored weights.

    sampled: rows of values that calibration did not see; statistics: of those that it did; calls: of calls of convolutions and
    recurrent layers, by what they write. divided: what the columns of values are divided by.
    calibrated: whether there is calibration data. known: what was rounded before.
    Raises FormatError for such a layer without calibration data.
    """
    op_nodes = []
    for op_node in graph.op_nodes:
        layer = layers.get(op_node.writes[0])
        if layer is None or not rounds(layer.scheme):
            op_nodes.append(op_node)
            continue
        seen: InputStatistics | CallStatistics | None = _statistics(op_node, layer, sampled, statistics)
        seen = seen or calls.get(op_node.writes[0])
        if seen is None or (isinstance(seen, CallStatistics) and not seen.sums):
            if not calibrated:
                raise FormatError(
                    "compile", f"{layer.scheme!r} for {op_node.name} without calibration data",
                    "calibration= with batches of real inputs", "Pass some, or take rounding='nearest'.",
                )  # fmt: skip
            notes.append(
                f"{op_node.name} is rounded to the nearest: calibration does not show what its weights multiply"
            )
            op_nodes.append(op_node)
            continue
        names = op_node.operator.weights.matrices(op_node.tensors) if op_node.operator.weights else ()
        of = op_node.writes[0] if isinstance(seen, InputStatistics) else f"calls {id(seen)}"
        key = of, " ".join([f"{layer.scheme!r}", *(str(id(op_node.tensors[name])) for name in names)])
        if key not in known:
            if isinstance(seen, InputStatistics):
                made = rounded_weight(op_node.tensors["weight"], op_node.tensors.get("bias"), layer.scheme, seen)
                known[key] = {"weight": made[:2]}, {"bias": made[2]}
            else:
                known[key] = _rounded_calls(op_node, layer, seen, divided.get(op_node.reads[0]))
        stored, biases = known[key]
        layers[op_node.writes[0]] = replace(layer, stored=stored)
        op_nodes.append(replace(op_node, tensors={**op_node.tensors, **biases}))
    return replace(graph, op_nodes=tuple(op_nodes))


def _statistics(
    op_node: OpNode, layer: LayerPlan, sampled: Mapping[str, Tensor], statistics: Mapping[str, ValueStatistics]
) -> InputStatistics | None:
    if not _is_linear(op_node):
        return None
    rows = sampled.get(op_node.reads[0])
    if rows is not None:
        x = rows.double()
        return InputStatistics.of_dense(x.T @ x / max(len(x), 1), x.mean(0), len(x))
    seen = statistics.get(op_node.reads[0])
    if seen is not None and layer.factor is not None:
        seen = seen.divided(1 / layer.factor)
    return None if seen is None else seen.inputs()


def _rounded_calls(op_node: OpNode, layer: LayerPlan, seen: CallStatistics, divided: Tensor | None) -> Rounded:
    """A convolution, group by group of its channels, or the matrices of a recurrent layer one by one."""
    stored: dict[str, Stored] = {}
    biases: dict[str, Tensor] = {}
    for name, sums in seen.sums.items():
        weight, own = op_node.tensors[name], name.replace("weight", "bias", 1)
        bias = op_node.tensors.get(own)
        flat = weight.reshape(len(weight), -1)
        rows, made = len(flat) // len(sums), []
        for group, part in enumerate(sums):
            place = slice(group * rows, (group + 1) * rows)
            factor = _factor(op_node, layer, name, group, len(sums), divided)
            statistics = (part if factor is None else part.scaled(factor)).inputs()
            assert statistics is not None
            made.append(rounded_weight(flat[place], None if bias is None else bias[place], layer.scheme, statistics))
        tensors = {key: torch.cat([one[0][key] for one in made]) for key in made[0][0]}
        stored[name] = tensors, made[0][1]
        biases[own] = torch.cat([one[2] for one in made])
    return stored, biases


def _factor(
    op_node: OpNode, layer: LayerPlan, name: str, group: int, groups: int, divided: Tensor | None
) -> Tensor | None:
    """What the columns of a weight's input are multiplied by, where they were brought to one range."""
    if layer.factor is not None and name.startswith("weight_ih_l0"):
        return layer.factor
    if divided is None or name != "weight":
        return None
    own = (1 / divided.double()).chunk(groups)[group]
    return own.repeat_interleave(op_node.tensors["weight"][0, 0].numel())


def rounded_weight(
    weight: Tensor, bias: Tensor | None, scheme: Scheme, statistics: InputStatistics
) -> tuple[Mapping[str, Tensor], Mapping[str, Any], Tensor]:
    """A float32 weight [N, K] rounded as the scheme says: as it is stored, further attributes, and its bias, which is always
    there."""
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
