"""From nodes to a program: schemes become numbers for each layer, calibration gives the static ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.lower_memo import LowerMemo
from rtaccel.convert.passes.emit import Emitter
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.convert.passes.fuse_norm import fuse_norms
from rtaccel.convert.passes.join_branches import join_inputs, joined_elsewhere
from rtaccel.convert.passes.layer_forms import FormedLayers, widths, with_forms
from rtaccel.convert.passes.program import Program
from rtaccel.convert.passes.skeleton import Skeleton
from rtaccel.convert.passes.sparse import pruned
from rtaccel.convert.quantization.balance import Balanced, ScaledObserver, balanced
from rtaccel.convert.quantization.calibrate import calibrate
from rtaccel.convert.quantization.call_statistics import CallStatistics, gather_calls
from rtaccel.convert.quantization.equalization import ColumnObserver, column_observers, equalize_columns
from rtaccel.convert.quantization.logarithms import kept_exact
from rtaccel.convert.quantization.recorded import recorded_ranges
from rtaccel.convert.quantization.rounding import calls_of, reads_of, with_rounding
from rtaccel.convert.quantization.scheme_rules import LayerPlan, decide_draft, takes_schemes
from rtaccel.convert.quantization.value_statistics import ValueStatistics, gather, rows_of
from rtaccel.core.scheme import Scheme, SchemeMap
from rtaccel.core.sparsity import SparsityMap
from rtaccel.core.stage import QParams
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
    memo: LowerMemo | None = None,
) -> Program:
    """The whole way from nodes to a program. Raises typed errors; nothing is half done.

    even: whether the columns of an input may be brought to one range, which takes a pointwise kernel that writes int8.
    sparsity: patterns to prune linear layers to. exact: no algorithm that rounds more than sums of products do.
    memo: of this graph and calibration data, where it is lowered more than once.
    """
    notes: list[str] = []
    scheme = kept_exact(graph, scheme, notes)
    graph = fuse_norms(graph)
    kept = graph.kept
    graph = replace(graph, op_nodes=tuple(fold(join_inputs(graph.op_nodes, kept, scheme), kept)))
    if exact:
        graph = replace(graph, op_nodes=tuple(_exact(op_node) for op_node in graph.op_nodes))
    memo = memo or LowerMemo()
    layers: dict[str, LayerPlan] = {}
    notes += joined_elsewhere(graph.op_nodes, scheme)
    if exported.trained:
        names = sorted({d.name for d in graph.op_nodes if d.name in exported.trained})
        notes.append(f"as training with fake quantization left them, whatever the scheme: {', '.join(names)}")
    if exported.halves:
        kinds = " and ".join(str(d).removeprefix("torch.") for d in exported.halves)
        notes.append(f"computed in float32, without the rounding of {kinds} between layers")
    if sparsity is not None:
        graph = pruned(graph, sparsity, notes)
    even = balanced(exported, graph, scheme, calibration, memo.balanced, notes)
    formed = _formed(exported, even, scheme, calibration, notes, memo)
    graph = formed.graph
    wanted: dict[str, Any] = {}
    recorded = recorded_ranges(exported) if not scheme.exact else {}
    for op_node in graph.op_nodes:
        if op_node.is_fallback or not takes_schemes(op_node.operator):
            continue
        own = recorded.get(_node(op_node.reads[0])) if op_node.reads else None
        layer = decide_draft(op_node, formed.scheme, calibration is not None or own is not None, notes)
        if layer.observer is not None:
            quant = own if own is not None else formed.quant(op_node.reads[0], layer.observer)
            if quant is None:
                wanted[_node(op_node.reads[0])] = layer.observer
            else:
                layer = replace(layer, quant=quant)
            if own is not None and RECORDED not in notes:  # the model's own range; nothing is calibrated
                notes.append(RECORDED)
        layers[op_node.writes[0]] = layer
    stateful: dict[str, OpNode] = {}
    hidden: dict[str, StateObserver] = {}
    for op_node in graph.op_nodes:
        layer_of = layers.get(op_node.writes[0])
        observe = op_node.operator.int8.state_observer if layer_of is not None else None
        if observe is not None and layer_of is not None and layer_of.observer is not None:
            stateful[op_node.node.name] = op_node
            hidden[op_node.node.name] = observe(op_node.name, states is None and len(op_node.reads) > 1)
        elif (
            observe is not None and layer_of is not None and layer_of.int8 and states is None and len(op_node.reads) > 1
        ):
            notes.append(f"{op_node.name}: h is int8 with the scale of its bound, 1: given states beyond it are clipped without "
                         "calibration")  # fmt: skip
    columns = column_observers(exported, graph, layers, states is not None) if equalize else {}
    quants = _ranges(exported, calibration, wanted, hidden, columns, even.observers(), memo)
    evened = [_evened(op_node, layers, columns, notes, memo) for op_node in graph.op_nodes]
    graph = replace(graph, op_nodes=tuple(evened))
    for op_node in graph.op_nodes:
        found = layers.get(op_node.writes[0])
        if found is not None and found.observer is not None:
            layers[op_node.writes[0]] = replace(found, quant=quants[_node(op_node.reads[0])])
    for node, op_node in stateful.items():
        scale = hidden[node].scale
        if scale is None:
            notes.append(hidden[node].note)
        layers[op_node.writes[0]] = replace(layers[op_node.writes[0]], h_scale=scale)
    calls = _calls(exported, graph, formed.scheme, calibration, memo)
    divided = {value: factor for value, (factor, _) in even.factors.items()}
    known = _divided(memo, even)
    graph = with_rounding(
        graph, layers, formed.sampled, known, calls, divided, calibration is not None, memo.rounded, notes
    )
    made = Emitter(exported, graph, layers, states, memo.stage_weights).program(tuple(notes))
    return replace(made, source=Skeleton.of(exported, graph, layers, states))


def _formed(
    exported: ExportedGraph, even: Balanced, scheme: SchemeMap, calibration: Any, notes: list[str], memo: LowerMemo
) -> FormedLayers:
    """The layers in the forms asked for, with what calibration data shows of the inputs of those that go by it."""
    graph = even.graph
    asked = rows_of(exported, [*widths(graph, scheme), *reads_of(graph, scheme)])
    missing = {name: width for name, width in asked.items() if name not in memo.statistics}
    if missing and calibration is not None:
        memo.statistics.update(gather(exported, calibration, missing))
    return with_forms(graph, scheme, _divided(memo, even), notes, memo.forms, memo.ranges)


def _calls(
    exported: ExportedGraph, graph: OpGraph, schemes: Callable[[str], Scheme], calibration: Any, memo: LowerMemo
) -> Mapping[str, CallStatistics]:
    """What the weights of convolutions and recurrent layers multiply, where a scheme goes by it."""
    if calibration is None:
        return {}
    wanted = calls_of(exported, graph, schemes, memo.statistics)
    missing = {name: found for name, found in wanted.items() if name not in memo.calls}
    if missing:
        memo.calls.update(gather_calls(exported, calibration, missing))
    return {name: memo.calls[name] for name in wanted}


def _divided(memo: LowerMemo, even: Balanced) -> Mapping[str, ValueStatistics]:
    """What calibration data shows of inputs of layers, as they are with their columns balanced."""
    own = {v: memo.statistics[v].divided(factor) for v, (factor, _) in even.factors.items() if v in memo.statistics}
    return {**memo.statistics, **own}


def _ranges(
    exported: ExportedGraph,
    calibration: Any,
    wanted: Mapping[str, Any],
    hidden: dict[str, StateObserver],
    columns: dict[str, ColumnObserver],
    divided: Mapping[str, ScaledObserver],
    memo: LowerMemo,
) -> dict[str, QParams]:
    """The static scales of values, from the memo where they are known. `hidden` and `columns` become observers that have seen
    the data."""
    keys = {
        name: (name, str(observer), divided[name].depends if name in divided else _depends(columns.get(name)))
        for name, observer in wanted.items()
    }
    missing = {name: wanted[name] for name, key in keys.items() if key not in memo.ranges}
    unseen = {name: observer for name, observer in hidden.items() if name not in memo.hidden}
    if missing or unseen:
        own = {name: columns[name] for name in missing if name in columns}
        found = calibrate(exported, calibration, missing, unseen, {**divided, **own})
        memo.ranges.update((keys[name], quant) for name, quant in found.items())
        memo.columns.update((keys[name], observer) for name, observer in own.items())
        memo.hidden.update(unseen)
    hidden.update((name, memo.hidden[name]) for name in hidden)
    columns.update((name, memo.columns[keys[name]]) for name in columns if name in keys)
    return {name: memo.ranges[key] for name, key in keys.items()}


def _depends(observer: ColumnObserver | None) -> str:
    """What the scale of an input depends on beside its values: the weights that its columns are weighed by."""
    return "" if observer is None else repr(float(observer.weight.double().square().sum()))


def _exact(op_node: OpNode) -> OpNode:
    if op_node.is_fallback:
        return op_node
    return replace(op_node, attrs={**op_node.attrs, **op_node.operator.exact})


def _evened(
    op_node: OpNode,
    layers: dict[str, LayerPlan],
    columns: Mapping[str, ColumnObserver],
    notes: list[str],
    memo: LowerMemo,
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
    key = op_node.writes[0], id(seen)
    if key not in memo.equalized:
        memo.equalized[key] = equalize_columns(op_node, seen.factor)
    return replace(memo.equalized[key], reads=op_node.reads, writes=op_node.writes)


def _node(value: str) -> str:
    """The graph node whose elements a value holds: their range is the same in whatever order they lie."""
    return value.split(":")[0]
