"""From drafts to a program: schemes become numbers for each layer, calibration gives the static ranges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rtaccel.convert.calibrate import calibrate
from rtaccel.convert.capture import Captured
from rtaccel.convert.emit import Emitter
from rtaccel.convert.fuse_norm import fuse_norms
from rtaccel.convert.graph import DraftGraph
from rtaccel.convert.hidden import HiddenObserver
from rtaccel.convert.layers import SCHEMES, Layer, decide_draft
from rtaccel.convert.program import Program
from rtaccel.core.scheme import SchemeMap


def lower(
    captured: Captured, graph: DraftGraph, scheme: SchemeMap, calibration: Any, states: frozenset[str] | None = None
) -> Program:
    """The whole way from drafts to a program. Raises typed errors; nothing is half done."""
    graph = fuse_norms(graph)
    layers: dict[str, Layer] = {}
    notes: list[str] = []
    wanted: dict[str, Any] = {}
    for draft in graph.drafts:
        if draft.op not in SCHEMES:
            continue
        layers[draft.writes[0]] = layer = decide_draft(draft, scheme, calibration is not None, notes)
        if layer.observer is not None:
            wanted[_node(draft.reads[0])] = layer.observer
    recurrent = {
        draft.node.name: draft
        for draft in graph.drafts
        if draft.op in ("lstm", "gru") and layers[draft.writes[0]].observer is not None
    }
    hidden = {
        node: HiddenObserver(draft.name, states is None and len(draft.reads) > 1) for node, draft in recurrent.items()
    }
    quants = calibrate(captured, calibration, wanted, hidden) if wanted else {}
    for draft in graph.drafts:
        found = layers.get(draft.writes[0])
        if found is not None and found.observer is not None:
            layers[draft.writes[0]] = replace(found, quant=quants[_node(draft.reads[0])])
    for node, draft in recurrent.items():
        scale = hidden[node].scale
        if scale is None:
            notes.append(
                f"{draft.name}: h has the scale of its bound, 1: calibration starts every call from zero states"
            )
        layers[draft.writes[0]] = replace(layers[draft.writes[0]], h_scale=scale)
    return Emitter(captured, graph, layers, states).program(tuple(notes))


def _node(value: str) -> str:
    """The graph node whose elements a value holds: their range is the same in whatever order they lie."""
    return value.split(":")[0]
