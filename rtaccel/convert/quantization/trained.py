"""Numbers that training with fake quantization gave to layers: put into the nodes as they are, before anything is fused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.scheme_rules import LayerPlan, parts
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.scheme import Int8Activation
from rtaccel.nn.qat.layers import TrainedNumbers


def with_trained(op_nodes: list[OpNode], trained: Mapping[str, TrainedNumbers], retraced: bool) -> list[OpNode]:
    """The nodes with the stored weights, ranges and hidden scales of these layers, by dotted name.

    Raises UnsupportedProblem where a layer is computed by torch, in float32, or is not found by its name (`retraced`).
    """
    if not trained:
        return op_nodes
    made, seen = [], set()
    for op_node in op_nodes:
        numbers = trained.get(op_node.name)
        if numbers is None:
            made.append(op_node)
            continue
        if op_node.is_fallback:
            raise _lost(op_node.name, f"which PyTorch would compute in float32: {op_node.reason}")
        weights = op_node.operator.weights
        if weights is None or not weights.matrices(op_node.tensors):
            made.append(op_node)  # padding, for example
            continue
        seen.add(op_node.name)
        tensors, attrs = parts(op_node, LayerPlan(numbers.scheme, h_scale=numbers.h_scale))
        floats = not isinstance(numbers.scheme, Int8Activation)
        made.append(replace(op_node, tensors=tensors, attrs=attrs, quant=numbers.quant, float_input=floats))
    missing = sorted(trained.keys() - seen)
    if missing and retraced:
        raise _lost(", ".join(missing[:3]), "which is not found again in the calls of one run")
    return made


def _lost(name: str, why: str) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile", f"{name}, trained with fake quantization, {why}", "a native layer with the numbers of training",
        "Leave this layer out of rt.prepare_qat_ with filter_fn.",
    )  # fmt: skip
