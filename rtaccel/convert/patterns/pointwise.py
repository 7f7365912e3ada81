"""Rules for elementwise calls, norms and softmax."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.rules import Call, Refused, Rule, rule
from rtaccel.convert.patterns.written_norm import by_hand, squared
from rtaccel.kernels._common import activations
from rtaccel.kernels._common.activations.row import Aten


def _elementwise(call: Call, value: fx.Node, **parts: Any) -> OpNode:
    """A pointwise node that works on a value in the order it lies in."""
    view = call.build.whole(call.view(value))
    buffer = call.build.buffers[view.base]
    return call.op_node("pointwise", [view.base], view, buffer.elements, buffer.width, **parts)


def _activation(functions: Sequence[tuple[str, Aten]]) -> Rule:
    """functions: those that a call of one target may be, by name."""

    def apply(call: Call) -> OpNode | str:
        for name, aten_call in functions:
            number = 0.0 if aten_call.parameter is None else call[aten_call.parameter]
            if all(call[argument] == value for argument, value in aten_call.only.items()) and number is not None:
                parameter = float(number)
                attrs = {"activation": name, "activation_parameter": parameter}
                return _elementwise(call, call["self"], attrs=attrs)
        return functions[-1][1].otherwise

    return apply


_FUNCTIONS: dict[str, list[tuple[str, Aten]]] = {}
for _name, _row in activations.ROWS.items():
    for _aten in _row.aten:
        _FUNCTIONS.setdefault(_aten.target, []).append((_name, _aten))
for _target, _functions in _FUNCTIONS.items():
    rule(attrgetter(_target)(aten))(_activation(_functions))


@rule(aten.softmax.int)
def _softmax(call: Call) -> OpNode | str:
    rank = call["self"].meta["val"].dim()
    if call["dtype"] is not None or call["dim"] not in (-1, rank - 1):
        return "is a softmax over another dimension than the last, or into another dtype"
    view = call.rows(call["self"])
    return call.row_wise("softmax", view, call.width(view))


@rule(aten.layer_norm.default, aten.rms_norm.default)
def _norm(call: Call) -> OpNode | str:
    layer = call.node.target is aten.layer_norm.default
    if len(call["normalized_shape"]) != 1:
        return "normalizes over several dimensions"
    weight = call.constant(call["weight"])
    bias = call.constant(call["bias"]) if layer else None
    if (weight is None and call["weight"] is not None) or (layer and bias is None and call["bias"] is not None):
        return "its weight is computed, not a parameter"
    view = call.rows(call["input"])
    width = call.width(view)
    eps = call["eps"] if call["eps"] is not None else torch.finfo(torch.float32).eps
    tensors = {"weight": torch.ones(width, device="cpu") if weight is None else weight.float()}
    if layer:
        tensors["bias"] = torch.zeros(width, device="cpu") if bias is None else bias.float()
    attrs = {"kind": "layer" if layer else "rms", "eps": float(eps)}
    return call.row_wise("norm", view, width, tensors=tensors, attrs=attrs)


def _affine(call: Call, value: fx.Node, scale: float | Tensor, shift: float | Tensor) -> OpNode | str:
    view = call.build.whole(call.view(value))
    buffer = call.build.buffers[view.base]
    if (
        call.build.windowed
        and view.shape[-1] == 1
        and any(isinstance(c, Tensor) and c.numel() > 1 for c in (scale, shift))
    ):
        return "has a constant for each row of one number, which may be a time step"
    parts = []
    for constant in (scale, shift):
        tensor = constant if isinstance(constant, Tensor) else torch.tensor(constant, dtype=torch.float64, device="cpu")
        if not _is_ordinary(tensor):
            return "has a constant that is not an ordinary float32 number"
        parts.append(call.spread(tensor, view))
    if any(part.dim() == 2 for part in parts):
        if isinstance(scale, Tensor) or scale != 1.0:
            return "multiplies by a constant that differs from position to position"
        if call.build.windowed and isinstance(shift, Tensor) and sum(size > 1 for size in shift.shape) == 1:
            return "adds a constant along one dimension, which is no row: of channels in front of time steps"
        tensors = {"table": parts[1]}
        return call.op_node("position", [view.base], view, buffer.elements, buffer.width, tensors=tensors)
    tensors = {"scale": parts[0], "shift": parts[1]}
    return call.op_node("pointwise", [view.base], view, buffer.elements, buffer.width, tensors=tensors)


def _is_ordinary(constant: Tensor) -> bool:
    """Whether every number keeps its meaning in float32, and as a factor in its inverse."""
    size = constant.double().abs()
    return bool(torch.isfinite(size).all()) and bool(((size == 0) | ((size >= 2.0**-126) & (size <= 2.0**126))).all())


def batch_norm(call: Call) -> tuple[fx.Node, Tensor, Tensor]:
    """What a batch norm reads, and its scale and shift, [C, 1, ..]. Raises Refused for any other result that is taken."""
    norm, index = call.node.args
    if not isinstance(norm, fx.Node) or norm.target != aten._native_batch_norm_legit_no_training.default or index != 0:
        raise Refused("takes an element of a result")
    inner = Call(call.build, norm)
    x, mean, variance = inner["input"], inner.constant(inner["running_mean"]), inner.constant(inner["running_var"])
    if mean is None or variance is None:
        raise Refused("has no running mean and variance")
    inverse = (variance.double() + inner["eps"]).rsqrt()
    weight, bias = inner.constant(inner["weight"]), inner.constant(inner["bias"])
    scale = inverse if weight is None else inverse * weight.double()
    shift = -mean.double() * scale if bias is None else bias.double() - mean.double() * scale
    trailing = [1] * (x.meta["val"].dim() - 2)  # channels are dimension 1
    return x, scale.float().reshape(-1, *trailing), shift.float().reshape(-1, *trailing)


@rule(operator.getitem)
def _batch_norm(call: Call) -> OpNode | str:
    return _affine(call, *batch_norm(call))


@rule(aten.batch_norm.default)
def _whole_batch_norm(call: Call) -> OpNode | str:
    return "normalizes with the statistics of the batch"


@rule(aten.add.Tensor)
def _add(call: Call) -> OpNode | str:
    left, right = call["self"], call["other"]
    if call["alpha"] != 1:
        return "adds a multiple"
    if call.constant(left) is not None:
        left, right = right, left
    constant = call.constant(right)
    if isinstance(right, (int, float)) or constant is not None:
        return _affine(call, left, 1.0, constant if constant is not None else float(right))
    return _joined(call, left, right, "add")


def _joined(call: Call, left: fx.Node, right: fx.Node, join: str) -> OpNode | str:
    """Two computed tensors, element by element."""
    a, b = call.build.whole(call.view(left)), call.view(right)
    if a.shape != b.shape:
        return f"{join} of tensors of different shapes"
    buffer = call.build.buffers[a.base]
    same = layout.same_layout(a, b) and layout.covers(b, call.build.buffers[b.base].elements)
    if not same or not call.build.pin(b.base, buffer.width):
        if not layout.same_samples(a.dims, b.dims):
            return f"layout: {join} of tensors whose samples are different dimensions"
        b = call.build.packed(b, order=a, width=buffer.width)
    attrs = {"join": join} if join != "add" else {}
    return call.op_node("pointwise", [a.base, b.base], a, buffer.elements, buffer.width, attrs=attrs)


@rule(aten.sub.Tensor)
def _sub(call: Call) -> OpNode | str:
    constant = call.constant(call["other"])
    if call["alpha"] != 1 or not (isinstance(call["other"], (int, float)) or constant is not None):
        return "subtracts a computed tensor"
    return _affine(call, call["self"], 1.0, -constant if constant is not None else -float(call["other"]))


@rule(aten.mul.Tensor, aten.div.Tensor)
def _mul(call: Call) -> OpNode | str:
    left, right = call["self"], call["other"]
    divides = call.node.target is aten.div.Tensor
    if call.constant(left) is not None and not divides:
        left, right = right, left
    constant = call.constant(right)
    if not isinstance(right, (int, float)) and constant is None:
        norm = by_hand(call, left, right) or (None if divides else by_hand(call, right, left))
        if norm is not None:
            return norm
        return "divides by a computed tensor" if divides else _joined(call, left, right, "mul")
    factor = constant if constant is not None else torch.tensor(float(right), dtype=torch.float64, device="cpu")
    if divides:
        factor = torch.ones_like(factor, dtype=torch.float64) / factor.double()
    return _affine(call, left, factor, -0.0)  # what is added leaves every number as it is: 0 would make 0 of -0


@rule(aten.pow.Tensor_Scalar)
def _pow(call: Call) -> OpNode | str:
    if call["exponent"] != 2:
        return "is a power other than 2"
    return _joined(call, call["self"], call["self"], "mul")


@rule(aten.sqrt.default)
def _sqrt(call: Call) -> OpNode | str:
    """The root of a sum of two squares. The squares themselves go away, as nothing else reads them."""
    total = call["self"]
    adds = total.target == aten.add.Tensor and len(total.args) == 2 and not total.kwargs  # no multiple (alpha)
    sides = [squared(side) for side in total.args] if adds else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return "is a root of something else than a sum of two squares"
    return _joined(call, sides[0], sides[1], "hypot")


def _is_row(view: layout.View) -> bool:
    """Whether the last dimension lies element by element."""
    run = layout.run_of(view, -1)
    return run is not None and (run.stride == 1 or run.size == 1)


@rule(aten.cat.default)
def _cat(call: Call) -> OpNode | str:
    """Columns side by side: each part is copied into its place."""
    if len(call["tensors"]) > 256:
        return "joins more than 256 tensors"
    parts = [call.view(part) for part in call["tensors"]]
    rank = len(parts[0].dims)
    dim = call["dim"] % rank
    order = [*(d for d in range(rank) if d != dim), dim]
    if dim != rank - 1:
        # Channels of convolutions are columns of their rows, which are time steps in a window that is to be streamed.
        parts = [layout.permute(part, order) for part in parts]
        if not call.build.windowed or not all(_is_row(part) for part in parts):
            return "joins tensors along another dimension than the last"
    if any(part.has_batch(rank - 1) for part in parts):
        return "layout: its last dimension is not fixed"
    if not all(layout.same_samples(parts[0].dims[:-1], part.dims[:-1]) for part in parts):
        return "layout: joins tensors whose samples are different dimensions"
    views = [call.build.rows(part) for part in parts]
    steps = {call.build.buffers[v.base].steps for v in views}
    plain = [layout.same_layout(v, call.build._dense_like(v)) for v in views]
    if len(steps) != 1:
        return "joins tensors of different numbers of rows"
    views = [v if ok else call.build.packed(v) for v, ok in zip(views, plain)]
    widths = [call.width(v) for v in views]
    result = call.build.scaled(views[0], call.node.name, sum(widths))
    elements = steps.pop() * sum(widths)
    call.build.buffers[call.node.name] = Buffer(elements, sum(widths))
    call.build.views[call.node.name] = layout.permute(result, [order.index(d) for d in range(rank)])
    return OpNode("concat", call.node, module_name(call.node), [v.base for v in views], [call.node.name])
