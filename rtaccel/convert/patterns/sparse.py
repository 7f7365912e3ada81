"""Rules for sparse layers: each becomes a linear layer with its zeros. Whether it runs sparse is decided at the end, with
the kernels at hand (convert/sparse.py), so that a float32 one is quantized as its scheme says first."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from rtaccel.convert.frontend.nodes import OpNode, zeros_like_rows
from rtaccel.convert.patterns.rules import Call, Rule, rule
from rtaccel.core.stage import QParams
from rtaccel.nn.ops import SPARSE_OPERATORS
from rtaccel.nn.params.sparse import SparseParams


def _sparse(params: type[SparseParams]) -> Rule:
    names = tuple(f.name for f in fields(cast(Any, params)) if f.name not in params.OPTIONS)

    def take(call: Call) -> OpNode | str:
        tensors = {name: call.constant(call[name]) for name in names}
        if any(tensors[name] is None and call[name] is not None for name in names):
            return "its weight is computed, not a buffer"
        layer = params(**tensors, **{name: call[name] for name in params.OPTIONS})
        layer.validate("compile")
        weight = layer.dense()
        bias = zeros_like_rows(weight) if layer.bias is None else layer.bias
        kept = {"weight": weight, "bias": bias, **layer.scales()}
        attrs = {"activation": call["activation"], "activation_parameter": float(call["activation_parameter"])}
        attrs |= layer.attrs()
        op_node = call.row_wise("linear", call.rows(call["x"]), weight.shape[0], tensors=kept, attrs=attrs)
        if layer.input_scale is not None and layer.input_zero_point is not None:
            op_node.quant = QParams(float(layer.input_scale), int(layer.input_zero_point))
        return op_node

    return take


for _params, _operator in SPARSE_OPERATORS.items():
    rule(_operator)(_sparse(_params))
