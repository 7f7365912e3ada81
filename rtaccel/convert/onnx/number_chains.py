"""Chains of numbers: what is computed of shapes stays numbers of Python, and becomes no tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.dtypes import dtype_of
from rtaccel.convert.onnx.values import AsNumbers, Computed, Known, is_text

if TYPE_CHECKING:
    from rtaccel.convert.onnx.builder import Builder

MAX_NUMBERS = 4096
"""Elements of a constant that a chain of numbers may take in."""

_BOOLEAN = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or"}


def shape(build: Builder, node: Any, source: Any, attrs: dict[str, Any]) -> Any:
    if isinstance(source, Known) or (isinstance(source, Computed) and source.numbers):
        return _host(build, n.HOST[node.op_type], [source], attrs, torch.int64)
    return Computed(build.emit(n.shape if node.op_type == "Shape" else n.size, (source.node,), attrs), numbers=True)


def carried_on(build: Builder, node: Any, inputs: list[Any], attrs: dict[str, Any]) -> Sequence[Any] | None:
    """Where a chain of numbers goes on."""
    if node.op_type not in n.HOST or not any(isinstance(i, Computed) and i.numbers for i in inputs):
        return None
    for ref in inputs:
        if isinstance(ref, Computed) and not ref.numbers:
            return None
        if isinstance(ref, Known) and (is_text(ref) or ref.tensor.numel() > MAX_NUMBERS):
            return None
    dtype = next((build.dtype_of(i) for i in inputs if i is not None), torch.int64)
    filler = attrs.get("value") if node.op_type == "ConstantOfShape" else inputs[0]
    if node.op_type in ("ConstantOfShape", "Expand") and (filler is None or build.dtype_of(filler).is_floating_point):
        return None  # elements of a tensor rather than sizes
    if node.op_type in _BOOLEAN:
        dtype = torch.bool
    elif node.op_type == "Cast":
        dtype = dtype_of(attrs["to"])
    elif node.op_type == "Where":
        dtype = build.dtype_of(inputs[1])
    elif node.op_type == "ConstantOfShape":
        value = attrs["value"].tensor.reshape(-1)[0] if "value" in attrs else torch.tensor(0.0)
        attrs, dtype = {"value": value.item()}, value.dtype
    if node.op_type == "Split":
        attrs = {**attrs, "outputs": len(node.output)}
    made = _host(build, n.HOST[node.op_type], inputs, attrs, dtype)
    if node.op_type == "Split":
        return [
            Computed(build.graph.call_function(operator.getitem, (made.node, i)), True, dtype)
            for i in range(len(node.output))
        ]
    return [made]


def _host(
    build: Builder, run: Callable[..., Any], inputs: list[Any], attrs: Mapping[str, Any], dtype: torch.dtype
) -> Any:
    wrapped = [None if ref is None else AsNumbers(ref) for ref in inputs]
    made = build.call(run, *wrapped, **attrs)
    if isinstance(made, Known):
        return Known(made.tensor.to(dtype), made.name)
    made.numbers, made.dtype = True, dtype
    return made
