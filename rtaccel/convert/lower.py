"""From nodes to a program: schemes become numbers for each layer, calibration gives the static ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rtaccel.convert.frontend.export import ExportedGraph
from rtaccel.convert.frontend.graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.passes.emit import Emitter
from rtaccel.convert.passes.fuse_norm import fuse_norms
from rtaccel.convert.passes.program import Program
from rtaccel.convert.passes.skeleton import Skeleton
from rtaccel.convert.passes.sparse import pruned
from rtaccel.convert.quantization.calibrate import calibrate
from rtaccel.convert.quantization.equalization import ColumnObserver, column_observers, equalize_columns
from rtaccel.convert.quantization.recorded import recorded_ranges
from rtaccel.convert.quantization.scheme_rules import LayerPlan, decide_draft, takes_schemes
from rtaccel.core.scheme import SchemeMap
from rtaccel.core.sparsity import SparsityMap
from rtaccel.core.traits import StateObserver

RECORDED = "static ranges that the model brings along (quantize-dequantize pairs) are taken as they are"


def lower(
    exported: ExportedGraph,
    graph: OpGraph,
    scheme: SchemeMap,
    calibration: Any,
    states: frozenset[str] | None = None,
    equalize: bool = True,
    sparsity: SparsityMap | None = None,
    exact: bool = False,
) -> Program:
    """The whole way from nodes to a program. Raises typed errors; nothing is half done.

    even: whether the columns of an input may be brought to one range, which takes a pointwise kernel that writes int8.
    sparsity: patterns to prune linear layers to. exact: no algorithm that rounds more than sums of products do.
    """
    graph = fuse_norms(graph)
    if exact:
        graph = replace(graph, op_nodes=tuple(_exact(op_node) for op_node in graph.op_nodes))
    layers: dict[str, LayerPlan] = {}
    notes: list[str] = []
    if sparsity is not None:
        graph = pruned(graph, sparsity, notes)
    wanted: dict[str, Any] = {}
    recorded = recorded_ranges(exported) if not scheme.exact else {}
    for op_node in graph.op_nodes:
        if op_node.is_fallback or not takes_schemes(op_node.operator):
            continue
        own = recorded.get(_node(op_node.reads[0])) if op_node.reads else None
        layer = decide_draft(op_node, scheme, calibration is not None or own is not None, notes)
        if own is not None and layer.observer is not None:
            layer = replace(layer, quant=own)  # the model's own range; nothing is calibrated
            if RECORDED not in notes:
                notes.append(RECORDED)
        layers[op_node.writes[0]] = layer
        if layer.observer is not None:
            wanted[_node(op_node.reads[0])] = layer.observer
    stateful: dict[str, OpNode] = {}
    hidden: dict[str, StateObserver] = {}
    for op_node in graph.op_nodes:
        layer_of = layers.get(op_node.writes[0])
        observe = op_node.operator.int8.state_observer if layer_of is not None else None
        if observe is not None and layer_of is not None and layer_of.observer is not None:
            stateful[op_node.node.name] = op_node
            hidden[op_node.node.name] = observe(op_node.name, states is None and len(op_node.reads) > 1)
    columns = column_observers(exported, graph, layers, states is not None) if equalize else {}
    quants = calibrate(exported, calibration, wanted, hidden, columns) if wanted else {}
    graph = replace(graph, op_nodes=tuple(_evened(op_node, layers, columns, notes) for op_node in graph.op_nodes))
    for op_node in graph.op_nodes:
        found = layers.get(op_node.writes[0])
        if found is not None and found.observer is not None:
            layers[op_node.writes[0]] = replace(found, quant=quants[_node(op_node.reads[0])])
    for node, op_node in stateful.items():
        scale = hidden[node].scale
        if scale is None:
            notes.append(hidden[node].note)
        layers[op_node.writes[0]] = replace(layers[op_node.writes[0]], h_scale=scale)
    made = Emitter(exported, graph, layers, states).program(tuple(notes))
    return replace(made, source=Skeleton.of(exported, graph, layers, states))


def _exact(op_node: OpNode) -> OpNode:
    if op_node.is_fallback:
        return op_node
    return replace(op_node, attrs={**op_node.attrs, **op_node.operator.exact})


def _evened(
    op_node: OpNode, layers: dict[str, LayerPlan], columns: Mapping[str, ColumnObserver], notes: list[str]
) -> OpNode:
    """The node with the columns of its input at one range, where calibration found that better."""
    seen = columns.get(op_node.reads[0]) if op_node.reads else None
    if seen is None or seen.factor is None:
        return op_node
    layers[op_node.writes[0]] = replace(layers[op_node.writes[0]], factor=seen.factor)
    ratio = float(seen.factor.max() / seen.factor.min())
    notes.append(
        f"{op_node.name}: each column of {seen.name} is brought to one range before int8, by factors up to {ratio:.3g} apart"
    )
    return equalize_columns(op_node, seen.factor)


def _node(value: str) -> str:
    """The graph node whose elements a value holds: their range is the same in whatever order they lie."""
    return value.split(":")[0]
