"""Rules for elementwise calls that no other rule takes: each becomes an expression of one or a few functions.

Neighbors are joined later, by `Merging` of the operator.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import inf
from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.counting import truth
from rtaccel.convert.frontend.graph.small import SMALL, holds, narrows
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.pointwise import batch_norm
from rtaccel.convert.patterns.rules import Call, Refused, general
from rtaccel.convert.patterns.written_expression import Expression

_LARGEST_EXPONENT = 88.72283
"""Above it exp is infinite in float32."""


def _functions(*names: str) -> Callable[[Call], OpNode]:
    """A call of one tensor that is these functions one after the other."""

    def apply(call: Call) -> OpNode:
        made = Expression(call)
        value = made.operand(call["self"])
        for name in names:
            value = made.emit(name, value)
        return made.node()

    return apply


for _target, _names in {
    aten.neg: "neg", aten.abs: "abs", aten.sign: "sign", aten.floor: "floor", aten.ceil: "ceil", aten.round: "round",
    aten.trunc: "trunc", aten.reciprocal: "reciprocal", aten.sqrt: "sqrt", aten.rsqrt: "rsqrt", aten.exp: "exp",
    aten.expm1: "expm1", aten.log: "log", aten.log2: "log2", aten.log10: "log10", aten.log1p: "log1p", aten.sin: "sin",
    aten.cos: "cos", aten.erf: "erf", aten.tan: "tan", aten.asin: "asin", aten.acos: "acos", aten.atan: "atan",
    aten.sinh: "sinh", aten.cosh: "cosh", aten.asinh: "asinh", aten.acosh: "acosh", aten.atanh: "atanh",
    aten.erfc: "erfc", aten.lgamma: "lgamma", aten.logical_not: "logical_not", aten.bitwise_not: "logical_not",
    aten.isnan: "isnan", aten.isinf: "isinf", aten.tanh: "tanh", aten.sigmoid: "sigmoid", aten.relu: "relu",
    aten.silu: "silu", aten.log_sigmoid: "neg;softplus;neg",
}.items():  # fmt: skip
    general(_target.default)(_functions(*_names.split(";")))


def _selecting(call: Call) -> Expression:
    """Of a call that gives one of its operands: float32 holds small whole numbers exactly."""
    made, dtype = Expression(call), call.node.meta["val"].dtype
    tensors = [n.meta["val"].dtype for n in call.node.all_input_nodes]
    numbers = [a for a in call.node.args if isinstance(a, (int, float))]
    if dtype in SMALL and holds(dtype, tensors, numbers):
        made.gives = (*made.gives, dtype)
    return made


def _arguments(name: str, *arguments: str) -> Callable[[Call], OpNode]:
    """A call that is one function of these arguments."""

    def apply(call: Call) -> OpNode:
        made = _selecting(call) if name in ("where", "maximum", "minimum") else Expression(call)
        given = [call[argument] for argument in arguments]
        if call.node.meta["val"].dtype == torch.bool and narrows(*given):
            raise Refused("compares whole numbers with one that their dtype does not hold")
        made.emit(name, *(made.operand(value) for value in given))
        return made.node()

    return apply


for _name, _targets in {
    "maximum": (aten.maximum.default,), "minimum": (aten.minimum.default,), "atan2": (aten.atan2.default,),
    "mul": (aten.mul.Tensor, aten.mul.Scalar), "hypot": (aten.hypot.default,), "copysign": (aten.copysign.Tensor,),
    "lt": (aten.lt.Tensor, aten.lt.Scalar), "le": (aten.le.Tensor, aten.le.Scalar),
    "gt": (aten.gt.Tensor, aten.gt.Scalar), "ge": (aten.ge.Tensor, aten.ge.Scalar),
    "eq": (aten.eq.Tensor, aten.eq.Scalar), "ne": (aten.ne.Tensor, aten.ne.Scalar),
    "logical_and": (aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor),
    "logical_or": (aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor),
    "logical_xor": (aten.logical_xor.default, aten.bitwise_xor.Tensor),
    "fmod": (aten.fmod.Tensor, aten.fmod.Scalar), "remainder": (aten.remainder.Tensor, aten.remainder.Scalar),
}.items():  # fmt: skip
    general(*_targets)(_arguments(_name, "self", "other"))
general(aten.square.default)(_arguments("mul", "self", "self"))
general(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)(
    _arguments("where", "condition", "self", "other")
)


@general(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _filled(call: Call) -> OpNode:
    made = _selecting(call)
    mask, value, x = made.operand(call["mask"]), made.operand(call["value"]), made.operand(call["self"])
    if call.node.meta["val"].dtype == torch.bool:
        value = made.emit("ne", value, "0.0")
    made.emit("where", mask, value, x)
    return made.node()


@general(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Tensor, aten.rsub.Scalar)
def _sum(call: Call) -> OpNode:
    made = Expression(call)
    left, right = made.operand(call["self"]), made.operand(call["other"])
    swaps = call.node.target in (aten.rsub.Tensor, aten.rsub.Scalar)
    if call["alpha"] != 1:
        scaled = made.emit("mul", left if swaps else right, made.operand(call["alpha"]))
        left, right = (scaled, right) if swaps else (left, scaled)
    adds = call.node.target in (aten.add.Tensor, aten.add.Scalar)
    truth = call.node.meta["val"].dtype == torch.bool  # a sum of truth values is one
    made.emit("logical_or" if truth else "add" if adds else "rsub" if swaps else "sub", left, right)
    return made.node()


@general(aten.div.Tensor, aten.div.Scalar, aten.div.Tensor_mode, aten.div.Scalar_mode)
def _quotient(call: Call) -> OpNode | str:
    rounds = call.node.target in (aten.div.Tensor_mode, aten.div.Scalar_mode)
    mode = call["rounding_mode"] if rounds else None
    if mode == "floor":
        return "rounds a quotient down, which depends on its remainder"
    made = Expression(call)
    quotient = made.emit("div", made.operand(call["self"]), made.operand(call["other"]))
    if mode is not None:
        made.emit(mode, quotient)
    return made.node()


@general(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _power(call: Call) -> OpNode:
    made = Expression(call)
    x = made.operand(call["self"])
    exponent = call["exponent"]
    if exponent in (2, 3):
        square = made.emit("mul", x, x)
        if exponent == 3:
            made.emit("mul", square, x)
    elif exponent in (0.5, -0.5, -1):
        made.emit({0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}[exponent], x)
    elif exponent == 1:
        made.emit("copy", x)
    else:
        made.emit("pow", x, made.operand(exponent))
    return made.node()


@general(aten.exp2.default)
def _power_of_two(call: Call) -> OpNode:
    made = Expression(call)
    made.emit("pow", "2.0", made.operand(call["self"]))
    return made.node()


@general(aten.clamp.default, aten.clamp.Tensor, aten.clamp_min.default, aten.clamp_max.default, aten.clamp_min.Tensor,
         aten.clamp_max.Tensor, aten.hardtanh.default)  # fmt: skip
def _clamp(call: Call) -> OpNode:
    """The smaller limit first, as torch has it: the upper one wins."""
    names: dict[Any, tuple[str | None, str | None]] = {
        aten.hardtanh.default: ("min_val", "max_val"),
        aten.clamp_min.default: ("min", None),
        aten.clamp_min.Tensor: ("min", None),
        aten.clamp_max.default: (None, "max"),
        aten.clamp_max.Tensor: (None, "max"),
    }
    low, high = names.get(call.node.target, ("min", "max"))
    made = _selecting(call)
    value = made.operand(call["self"])
    for function, name in (("maximum", low), ("minimum", high)):
        if name is not None and call[name] is not None:
            value = made.emit(function, value, made.operand(call[name]))
    return made.node()


@general(aten.prelu.default, aten._prelu_kernel.default)
def _prelu(call: Call) -> OpNode | str:
    weight = call.constant(call["weight"])
    if weight is None:
        return "its weight is computed, not a parameter"
    made = Expression(call)
    x = made.operand(call["self"])
    rank = call["self"].meta["val"].dim()
    slopes = (
        weight
        if weight.numel() == 1 or call.node.target is not aten.prelu.default
        else weight.reshape(-1, *[1] * (rank - 2))
    )
    made.emit("prelu", x, made.constant(slopes.reshape(()) if slopes.numel() == 1 else slopes))
    return made.node()


@general(aten.elu.default)
def _elu(call: Call) -> OpNode:
    """scale * (alpha * (exp(t * input_scale) - 1) if t < 0 else t)"""
    made = Expression(call)
    x = made.operand(call["self"])
    inner = made.emit("expm1", made.emit("mul", x, repr(float(call["input_scale"]))))
    below = made.emit("mul", inner, repr(float(call["alpha"]) * float(call["scale"])))
    above = made.emit("mul", x, repr(float(call["scale"])))
    made.emit("where", made.emit("lt", x, "0.0"), below, above)
    return made.node()


@general(aten.celu.default)
def _celu(call: Call) -> OpNode:
    """alpha * (exp(t / alpha) - 1) if t < 0 else t"""
    made = Expression(call)
    x, alpha = made.operand(call["self"]), float(call["alpha"])
    below = made.emit("mul", made.emit("expm1", made.emit("mul", x, repr(1 / alpha))), repr(alpha))
    made.emit("where", made.emit("lt", x, "0.0"), below, x)
    return made.node()


@general(aten.softplus.default)
def _softplus(call: Call) -> OpNode:
    """log1p(exp(beta t)) / beta, t itself beyond the threshold. Infinite as torch's where the exponential is."""
    made = Expression(call)
    x = made.operand(call["self"])
    beta, threshold = float(call["beta"]), float(call["threshold"])
    scaled = made.emit("mul", x, repr(beta))
    curve = made.emit("softplus", scaled)
    if not threshold <= _LARGEST_EXPONENT:  # or it is NaN
        curve = made.emit("where", made.emit("gt", scaled, repr(_LARGEST_EXPONENT)), "inf", curve)
    curve = made.emit("mul", curve, repr(1 / beta if beta else inf))
    made.emit("where", made.emit("gt", scaled, repr(threshold)), x, curve)
    return made.node()


@general(aten.threshold.default)
def _threshold(call: Call) -> OpNode:
    made = Expression(call)
    x = made.operand(call["self"])
    made.emit("where", made.emit("le", x, made.operand(call["threshold"])), made.operand(call["value"]), x)
    return made.node()


@general(aten.hardshrink.default, aten.softshrink.default)
def _shrink(call: Call) -> OpNode:
    made = Expression(call)
    x, limit = made.operand(call["self"]), float(call["lambd"])
    if call.node.target is aten.hardshrink.default:
        made.emit("where", made.emit("le", made.emit("abs", x), repr(limit)), "0.0", x)
    else:  # a NaN stays: it is neither above nor below
        below = made.emit(
            "where", made.emit("lt", x, repr(-limit)), made.emit("add", x, repr(limit)), made.emit("mul", x, "0.0")
        )
        made.emit("where", made.emit("gt", x, repr(limit)), made.emit("sub", x, repr(limit)), below)
    return made.node()


@general(aten.addcmul.default, aten.addcdiv.default)
def _addc(call: Call) -> OpNode:
    made = Expression(call)
    joined = "mul" if call.node.target is aten.addcmul.default else "div"
    first = made.operand(call["tensor1"])
    if call["value"] != 1:
        first = made.emit("mul", first, made.operand(call["value"]))
    made.emit("add", made.operand(call["self"]), made.emit(joined, first, made.operand(call["tensor2"])))
    return made.node()


@general(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(call: Call) -> OpNode:
    """From the end that is nearer, as torch: start + (end - start) weight at the other one would lose the digits of `end`."""
    made, weight = Expression(call), call["weight"]
    start, end = made.operand(call["self"]), made.operand(call["end"])
    w, way = made.operand(weight), made.emit("sub", end, start)
    number = isinstance(weight, (int, float))
    if not number or abs(weight) < 0.5:
        near = made.emit("add", start, made.emit("mul", way, w))
    if not number or abs(weight) >= 0.5:
        far = made.emit("sub", end, made.emit("mul", way, made.emit("sub", "1.0", w)))
    if not number:
        made.emit("where", made.emit("lt", made.emit("abs", w), "0.5"), near, far)
    return made.node()


@general(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
def _cast(call: Call) -> OpNode | str:
    """Truth values and indices to float32, and float32 to a truth value or a small whole number: the lowest bits of the number
    toward zero, stored as float32."""
    made = Expression(call)
    wanted = call.node.meta["val"].dtype
    if wanted in SMALL:
        made.gives = (wanted,)
        low, high = SMALL[wanted]
        size = repr(float(high - low + 1))
        bits = made.emit("remainder", made.emit("trunc", made.operand(call["self"])), size)
        if low < 0:
            made.emit("sub", bits, made.emit("mul", made.emit("gt", bits, repr(float(high))), size))
        return made.node()
    source = truth(call["self"]) if wanted == torch.float32 else None  # not by way of whole numbers
    made.emit("truth" if wanted == torch.bool else "copy", made.operand(source or call["self"]))
    return made.node()


@general(operator.getitem)
def _batch_norm(call: Call) -> OpNode:
    """One whose channels are no rows of the value."""
    x, scale, shift = batch_norm(call)
    made = Expression(call)
    made.emit("add", made.emit("mul", made.operand(x), made.constant(scale)), made.constant(shift))
    return made.node()
