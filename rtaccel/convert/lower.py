"""From a captured graph to a program: schemes become numbers for each layer, and drafts become stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rtaccel.convert.calibrate import calibrate
from rtaccel.convert.capture import Captured
from rtaccel.convert.draft import Draft
from rtaccel.convert.emit import Emitter, Layer
from rtaccel.convert.graph import DraftGraph
from rtaccel.convert.program import Program
from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import W8A8, Float32, Scheme, SchemeMap
from rtaccel.kernels.linear.contract import MAX_K

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
        if draft.swapped:
            layers[name] = Layer(int8=True, dynamic=draft.quant is None, quant=draft.quant)
            continue
        chosen = scheme(draft.name)
        layers[name] = decided = _layer(draft, chosen, calibration is not None, notes)
        if decided.int8 and not decided.dynamic and isinstance(chosen, W8A8):
            wanted[_node(draft.reads[0])] = chosen.observer
    quants = calibrate(captured, calibration, wanted) if wanted else {}
    for draft in graph.drafts:
        layer = layers.get(draft.writes[0])
        if layer is not None and layer.int8 and not layer.dynamic and layer.quant is None:
            layers[draft.writes[0]] = replace(layer, quant=quants[_node(draft.reads[0])])
    return Emitter(captured, graph, layers).program(tuple(notes))


def _node(value: str) -> str:
    """The graph node whose elements a value holds: their range is the same in whatever order they lie."""
    return value.split(":")[0]


def _products(draft: Draft) -> int:
    """The most products that one output sums."""
    return max(t[0].numel() for name, t in draft.tensors.items() if name.startswith("weight"))


def _layer(draft: Draft, scheme: Scheme, calibrated: bool, notes: list[str]) -> Layer:
    if isinstance(scheme, Float32):
        return Layer(int8=False)
    if not isinstance(scheme, W8A8):
        raise FormatError("compile", f"{scheme} for {draft.name}", "float32 or w8a8", "Choose one.")
    if _products(draft) > MAX_K:
        notes.append(f"{draft.name} stays float32: K = {_products(draft)} is over {MAX_K}")
        return Layer(int8=False)
    if scheme.activation == "static" and not calibrated:
        raise FormatError(
            "compile",
            f"W8A8(activation='static') for {draft.name} without calibration data",
            "calibration= with batches of real inputs",
            "Pass some, or take W8A8(activation='dynamic').",
        )
    dynamic = scheme.activation == "dynamic" or not calibrated
    if dynamic and scheme.activation is None:
        note = "no calibration data: int8 activations take a scale per row (dynamic)"
        if note not in notes:
            notes.append(note)
    return Layer(int8=True, dynamic=dynamic)
