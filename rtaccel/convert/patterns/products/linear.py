"""Rules for layers that multiply rows by a matrix: linear, matmul with a parameter, swapped layers."""

from __future__ import annotations

from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import OpNode, depended_on, zeros_like_rows
from rtaccel.convert.patterns.products.blocks import by_blocks
from rtaccel.convert.patterns.rules import Call, Rule, rule
from rtaccel.core.stage import QParams
from rtaccel.nn.ops import OPERATORS
from rtaccel.nn.params.linear import LinearParams, Size


@rule(aten.linear.default)
def _linear(call: Call) -> OpNode | str:
    weight, bias = call.constant(call["weight"]), call["bias"]
    if weight is None or weight.dim() != 2:
        return "its weight is computed, not a parameter"
    bias_tensor = zeros_like_rows(weight) if bias is None else call.constant(bias)
    if bias_tensor is None:
        return "its bias is computed, not a parameter"
    view = call.rows(call["input"])
    tensors = {"weight": weight.float(), "bias": bias_tensor.float()}
    return call.row_wise("linear", view, weight.shape[0], tensors=tensors)


_RIGHT: dict[Any, str] = {
    aten.matmul.default: "other", aten.mm.default: "mat2", aten.bmm.default: "mat2", aten.mv.default: "vec",
    aten.dot.default: "tensor",
}  # fmt: skip


@rule(*_RIGHT)
def _matmul(call: Call) -> OpNode | str:
    """With a matrix or a vector that all rows share; `einsum` gives it dimensions of one in front.

    A matrix that is made of no parameter is no layer of the model, which a scheme might quantize: Fourier transforms have one.
    """
    right = call[_RIGHT[call.node.target]]
    weight = call.repeated(right)
    if weight is None and (turned := _turned(call, right)) is not None:
        return turned
    if weight is None and call.node.target in (aten.matmul.default, aten.bmm.default):
        from rtaccel.convert.patterns.written_attention import by_hand

        return by_hand(call)
    if weight is not None and _of_parameter(right) and (blocks := by_blocks(call, weight)) is not None:
        return blocks
    if weight is None or weight.is_complex() or any(size != 1 for size in weight.shape[:-2]):
        return "its right side is no matrix parameter"
    if weight.dim() > 2 and not _of_parameter(right):
        return "its right side is no matrix parameter"
    view = call.rows(call["self"])
    if weight.dim() > len(view.dims):
        return "its right side has more dimensions than its left one"
    vector = weight.dim() == 1
    weight = (weight[None] if vector else weight.reshape(weight.shape[-2:]).T).float().contiguous()
    tensors = {"weight": weight, "bias": zeros_like_rows(weight)}
    if not vector:
        return call.row_wise("linear", view, weight.shape[0], tensors=tensors)
    steps, result = call.build.buffers[view.base].steps, call.build.scaled(view, call.node.name, 1)
    result = View(result.base, result.dims[:-1], result.offset)
    return call.op_node("linear", [view.base], result, steps, 1, tensors=tensors)


def _of_parameter(node: fx.Node) -> bool:
    """Whether a constant comes from a parameter or a buffer of the model."""
    return any(source.op == "placeholder" for source in depended_on([node]))


@rule(aten.addmm.default)
def _addmm(call: Call) -> OpNode | str:
    weight, bias = call.constant(call["mat2"]), call.constant(call["self"])
    if weight is None or bias is None or bias.dim() != 1 or call["beta"] != 1 or call["alpha"] != 1:
        return "is no product with a parameter plus a bias"
    weight = weight.float().T.contiguous()
    view = call.rows(call["mat1"])
    return call.row_wise("linear", view, weight.shape[0], tensors={"weight": weight, "bias": bias.float()})


def _swapped(params: type[LinearParams]) -> Rule:
    """A layer that `quantize_` swapped: its weights and its scales are taken as they are."""

    def take(call: Call) -> OpNode | str:
        names = list(params.storage_format(Size(1, 1, 16)))
        tensors = {name: call.constant(call[name]) for name in names}
        if any(tensors[name] is None and call[name] is not None for name in names) or tensors["weight"] is None:
            return "its weight is computed, not a buffer"
        scale, zero_point = tensors.pop("input_scale", None), tensors.pop("input_zero_point", None)
        attrs = {"activation": call["activation"], "activation_parameter": float(call["activation_parameter"])}
        attrs |= {name: call[name] for name in params.OPTIONS if name != "in_features"}
        kept = {k: v for k, v in tensors.items() if v is not None}
        view = call.rows(call["x"])
        op_node = call.row_wise("linear", view, kept["weight"].shape[0], tensors=kept, attrs=attrs)
        op_node.float_input = not params.int8_input()
        if scale is not None and zero_point is not None:
            op_node.quant = QParams(float(scale), int(zero_point))
        return op_node

    return take


for _params, _operator in OPERATORS.items():
    rule(_operator)(_swapped(_params))


def _turned(call: Call, right: Any) -> OpNode | None:
    """W X of a parameter W and an X whose columns lie as rows do: a linear layer of each column, seen the other way."""
    weight = call.repeated(call["self"])
    if weight is None or weight.dim() < 2 or not _of_parameter(call["self"]) or call.constant(right) is not None:
        return None
    view = call.view(right)
    rank = len(view.dims)
    if rank < 3 or weight.is_complex() or any(size != 1 for size in weight.shape[:-2]) or weight.dim() > rank:
        return None
    order = [*range(rank - 2), rank - 1, rank - 2]
    turned = layout.permute(view, order)
    run = layout.run_of(turned, rank - 1)
    if any(turned.has_batch(d) for d in (rank - 2, rank - 1)) or run is None or (run.stride != 1 and run.size != 1):
        return None
    seen = call.build.rows(turned)
    weight = weight.reshape(weight.shape[-2:]).float().contiguous()
    columns, steps = weight.shape[0], call.build.buffers[seen.base].steps
    result = layout.permute(call.build.scaled(seen, call.node.name, columns), order)
    tensors = {"weight": weight, "bias": zeros_like_rows(weight)}
    return call.op_node("linear", [seen.base], result, steps * columns, columns, tensors=tensors)
