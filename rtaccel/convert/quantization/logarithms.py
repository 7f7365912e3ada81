"""Layers whose result goes into a logarithm stay float32 under schemes of int8 activations.

Powers of a spectrum span many decades. int8 keeps two of them, and a logarithm makes the lost ones as large as the kept ones. So
a filter bank before `log` is computed in float32. So are the filters before it, where the bank only adds up what they give.
Exponentials end the way back: a logarithm undoes them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.scheme_rules import takes_schemes
from rtaccel.core.scheme import Int8Activation, SchemeMap

_LOGARITHMS = ("aten::log", "aten::log2", "aten::log10")
_ON_THE_WAY = {
    f"aten::{name}"
    for name in (
        "abs", "add", "amax", "avg_pool1d", "avg_pool2d", "cat", "clamp", "clamp_min", "clone", "contiguous", "copy", "div",
        "expand", "flatten", "index", "maximum", "mean", "mul", "permute", "pow", "relu", "reshape", "select",
        "slice", "split", "split_with_sizes", "sqrt", "square", "squeeze", "stack", "sub", "sum", "t", "transpose", "unbind",
        "unflatten", "unsqueeze", "view", "_to_copy", "_unsafe_view", "linalg_vector_norm",
    )
}  # fmt: skip

_KEEPING = ("none", "relu", "clipped_relu", "leaky_relu")
"""Activations that keep small powers as they are."""


def kept_exact(graph: OpGraph, scheme: SchemeMap, notes: list[str]) -> SchemeMap:
    """The schemes of a graph with such layers in float32, but for those that a pattern of their own names; notes says which."""
    if scheme.exact:
        return scheme
    names = [
        name
        for name in dict.fromkeys(op_node.name for op_node in _before_logarithms(graph.op_nodes))
        if isinstance(scheme(name), Int8Activation) and not scheme.names(name)
    ]
    if names:
        notes.append(
            f"float32, as a logarithm follows: {', '.join(names)}; a pattern of the scheme that names them rounds them"
        )
    return scheme.exact_for(names)


def _before_logarithms(op_nodes: Iterable[OpNode]) -> list[OpNode]:
    layers = {d.node: d for d in op_nodes if not d.is_fallback and takes_schemes(d.operator)}
    if not layers:
        return []
    stack = [n for n in next(iter(layers)).graph.nodes if _name(n) in _LOGARITHMS]
    layers = {node: layer for node, layer in layers.items() if layer.activation in _KEEPING}  # which it took in
    seen: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        for source in node.all_input_nodes:
            layer = layers.get(source)
            if source not in seen and (_name(source) in _ON_THE_WAY or layer is not None):
                seen.add(source)
                if layer is None or _adds_up(layer):
                    stack.append(source)
    return [layer for node, layer in layers.items() if node in seen]


def _adds_up(layer: OpNode) -> bool:
    weights = layer.operator.weights
    names = weights.matrices(layer.tensors) if weights is not None else ()
    return all(bool((layer.tensors[name] >= 0).all()) for name in names)


def _name(node: fx.Node) -> str:
    return node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else ""
