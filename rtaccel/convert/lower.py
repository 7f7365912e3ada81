"""From a captured graph to a program: schemes become numbers for each layer, and drafts become stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rtaccel.convert.calibrate import calibrate
from rtaccel.convert.capture import Captured
from rtaccel.convert.emit import Emitter
from rtaccel.convert.graph import DraftGraph
from rtaccel.convert.layers import Layer, decide
from rtaccel.convert.program import Program
from rtaccel.core.scheme import SchemeMap

WEIGHTED = ("linear", "conv", "lstm", "gru")


def lower(captured: Captured, graph: DraftGraph, scheme: SchemeMap, calibration: Any) -> Program:
    """The whole way from drafts to a program. Raises typed errors; nothing is half done."""
    layers: dict[str, Layer] = {}
    notes: list[str] = []
    wanted: dict[str, Any] = {}
    for draft in graph.drafts:
        if draft.op not in WEIGHTED:
            continue
        name = draft.writes[0]
        layers[name] = decided = decide(draft, scheme, calibration is not None, notes)
        if decided.observer is not None:
            wanted[_node(draft.reads[0])] = decided.observer
    quants = calibrate(captured, calibration, wanted) if wanted else {}
    for draft in graph.drafts:
        layer = layers.get(draft.writes[0])
        if layer is not None and layer.observer is not None:
            layers[draft.writes[0]] = replace(layer, quant=quants[_node(draft.reads[0])])
    return Emitter(captured, graph, layers).program(tuple(notes))


def _node(value: str) -> str:
    """The graph node whose elements a value holds: their range is the same in whatever order they lie."""
    return value.split(":")[0]
