"""Which operator a call becomes. One rule per kind of ATen call; a call that no rule takes stays a torch call.

A rule gets the call and returns a draft, or a sentence saying why it does not fit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.draft import Draft, module_name, zeros_like_rows
from rtaccel.core.stage import Quant
from rtaccel.nn.numbers import LinearNumbers, Size
from rtaccel.nn.ops import OPERATORS

Rule = Callable[["Call"], "Draft | str"]
_RULES: dict[Any, Rule] = {}
aten = torch.ops.aten


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(targets, function))
        return function

    return add


class Call:
    """One call of the graph with its arguments by position or keyword, and the constants of the model at hand."""

    def __init__(self, node: fx.Node, constants: dict[str, Tensor], resolve: Callable[[fx.Node], fx.Node]) -> None:
        self.node, self._constants, self._resolve = node, constants, resolve
        self._arguments = schema.arguments if (schema := getattr(node.target, "_schema", None)) else []

    def __getitem__(self, name: str) -> Any:
        """Argument by its name in the ATen schema, or its default."""
        index = [a.name for a in self._arguments].index(name)
        if index < len(self.node.args):
            return self.node.args[index]
        if name in self.node.kwargs:
            return self.node.kwargs[name]
        return self._arguments[index].default_value

    def constant(self, value: Any) -> Tensor | None:
        """The tensor of an argument that is a parameter or buffer; None for anything else."""
        return self._constants.get(self._resolve(value).name) if isinstance(value, fx.Node) else None

    def shape(self, value: Any) -> tuple[Any, ...] | None:
        meta = value.meta.get("val") if isinstance(value, fx.Node) else None
        return tuple(meta.shape) if isinstance(meta, Tensor) else None

    def draft(self, op: str, reads: list[fx.Node], **parts: Any) -> Draft | str:
        """A draft whose value is that of the node: float32, with a fixed last dimension as width."""
        meta = self.node.meta.get("val")
        if not isinstance(meta, Tensor) or meta.dim() == 0:
            return "its value is no tensor with columns"
        for node in (self.node, *reads):
            if self.constant(node) is not None:
                return "reads a parameter where operators read activations"
            value = node.meta.get("val")
            if not isinstance(value, Tensor) or value.dtype != torch.float32:
                return f"works on {getattr(value, 'dtype', 'no tensor')}, and operators here on float32"
        if not isinstance(meta.shape[-1], int):
            return "its last dimension is not fixed"
        names = [self._resolve(n).name for n in reads]
        return Draft(op, self.node, module_name(self.node), names, tuple(meta.shape[:-1]), meta.shape[-1], **parts)


def match(node: fx.Node, constants: dict[str, Tensor], resolve: Callable[[fx.Node], fx.Node]) -> Draft | str:
    found = _RULES.get(node.target)
    if found is None:
        return "no operator computes it"
    return found(Call(node, constants, resolve))


@rule(aten.linear.default)
def _linear(call: Call) -> Draft | str:
    weight, bias = call.constant(call["weight"]), call["bias"]
    if weight is None or weight.dim() != 2:
        return "its weight is computed, not a parameter"
    bias_tensor = zeros_like_rows(weight) if bias is None else call.constant(bias)
    if bias_tensor is None:
        return "its bias is computed, not a parameter"
    return call.draft("linear", [call["input"]], tensors={"weight": weight.float(), "bias": bias_tensor.float()})


@rule(aten.matmul.default, aten.mm.default)
def _matmul(call: Call) -> Draft | str:
    left, right = call["self"], call["mat2" if call.node.target is aten.mm.default else "other"]
    weight = call.constant(right)
    if weight is None or weight.dim() != 2:
        return "its right side is no matrix parameter"
    weight = weight.float().T.contiguous()
    return call.draft("linear", [left], tensors={"weight": weight, "bias": zeros_like_rows(weight)})


@rule(aten.addmm.default)
def _addmm(call: Call) -> Draft | str:
    weight, bias = call.constant(call["mat2"]), call.constant(call["self"])
    if weight is None or bias is None or bias.dim() != 1 or call["beta"] != 1 or call["alpha"] != 1:
        return "is no product with a parameter plus a bias"
    return call.draft("linear", [call["mat1"]], tensors={"weight": weight.float().T.contiguous(), "bias": bias.float()})


@rule(operator.getitem)
def _batch_norm(call: Call) -> Draft | str:
    norm, index = call.node.args
    if not isinstance(norm, fx.Node) or norm.target != aten._native_batch_norm_legit_no_training.default or index != 0:
        return "takes an element of a result"
    inner = Call(norm, call._constants, call._resolve)
    x, mean, variance = inner["input"], inner.constant(inner["running_mean"]), inner.constant(inner["running_var"])
    if len(call.shape(x) or ()) != 2 or mean is None or variance is None:
        return "normalises another dimension than the last of a matrix"
    inverse = (variance.double() + inner["eps"]).rsqrt()
    weight, bias = inner.constant(inner["weight"]), inner.constant(inner["bias"])
    scale = inverse if weight is None else inverse * weight.double()
    shift = -mean.double() * scale if bias is None else bias.double() - mean.double() * scale
    return call.draft("pointwise", [x], tensors={"scale": scale.float(), "shift": shift.float()})


def _activation(name: str, parameter: str | None = None) -> Rule:
    def apply(call: Call) -> Draft | str:
        value = float(call[parameter]) if parameter else 0.0
        attrs = {"activation": name, "activation_parameter": value}
        return call.draft("pointwise", [call["self"]], attrs=attrs)

    return apply


for _target, _name, _parameter in (
    (aten.relu.default, "relu", None),
    (aten.leaky_relu.default, "leaky_relu", "negative_slope"),
    (aten.silu.default, "silu", None),
    (aten.tanh.default, "tanh", None),
    (aten.sigmoid.default, "sigmoid", None),
):
    rule(_target)(_activation(_name, _parameter))


@rule(aten.elu.default)
def _elu(call: Call) -> Draft | str:
    if call["scale"] != 1 or call["input_scale"] != 1:
        return "is a scaled ELU"
    return _activation("elu", "alpha")(call)


@rule(aten.gelu.default)
def _gelu(call: Call) -> Draft | str:
    return _activation("gelu_tanh" if call["approximate"] == "tanh" else "gelu")(call)


@rule(aten.softmax.int)
def _softmax(call: Call) -> Draft | str:
    shape = call.shape(call["self"])
    if call["dtype"] is not None or shape is None or call["dim"] not in (-1, len(shape) - 1):
        return "is a softmax over another dimension than the last, or into another dtype"
    return call.draft("softmax", [call["self"]])


def _affine(call: Call, scale: float | Tensor, shift: float | Tensor) -> Draft | str:
    shape = call.shape(call["self"])
    if shape is None or not shape or not isinstance(shape[-1], int):
        return "works on something without columns"
    ones = torch.ones(shape[-1], dtype=torch.float32, device="cpu")
    for value in (scale, shift):
        if isinstance(value, Tensor) and value.numel() != 1 and tuple(value.shape) != (shape[-1],):
            return f"has a constant of shape {list(value.shape)}, which is not one number per column"
    return call.draft(
        "pointwise", [call["self"]], tensors={"scale": (ones * scale).float(), "shift": (ones * shift).float()}
    )


@rule(aten.add.Tensor)
def _add(call: Call) -> Draft | str:
    other = call["other"]
    if call["alpha"] != 1:
        return "adds a multiple"
    constant = call.constant(other)
    if isinstance(other, (int, float)) or constant is not None:
        return _affine(call, 1.0, constant if constant is not None else float(other))
    if not isinstance(call["self"], fx.Node) or call.constant(call["self"]) is not None:
        return "adds to a constant"
    if call.shape(call["self"]) != call.shape(other) or call.shape(other) is None:
        return "adds tensors of different shapes"
    return call.draft("pointwise", [call["self"], other])


@rule(aten.mul.Tensor)
def _mul(call: Call) -> Draft | str:
    other = call["other"]
    constant = call.constant(other)
    if not isinstance(other, (int, float)) and constant is None:
        return "multiplies two computed tensors"
    return _affine(call, constant if constant is not None else float(other), 0.0)


def _swapped(numbers: type[LinearNumbers]) -> Rule:
    """A layer that `quantize_` swapped: its weights and its scales are taken as they are."""

    def take(call: Call) -> Draft | str:
        names = list(numbers.form(Size(1, 1, 16)))
        tensors = {name: call.constant(call[name]) for name in names}
        if any(tensors[name] is None and call[name] is not None for name in names) or tensors["weight"] is None:
            return "its weight is computed, not a buffer"
        scale, zero_point = tensors.pop("input_scale", None), tensors.pop("input_zero_point", None)
        attrs = {"activation": call["activation"], "activation_parameter": float(call["activation_parameter"])}
        attrs |= {name: call[name] for name in numbers.OPTIONS if name != "in_features"}
        kept = {k: v for k, v in tensors.items() if v is not None}
        draft = call.draft("linear", [call["x"]], tensors=kept, attrs=attrs)
        if isinstance(draft, Draft):
            draft.float_input = not numbers.int8_input()
            if scale is not None and zero_point is not None:
                draft.quant = Quant(float(scale), int(zero_point))
        return draft

    return take


for _numbers, _operator in OPERATORS.items():
    rule(_operator)(_swapped(_numbers))
