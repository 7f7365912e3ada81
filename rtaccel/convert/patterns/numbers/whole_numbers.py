"""Rules for elementwise calls with whole numbers: arithmetic of indices, comparisons, casts. Exact, in int64.

int32 is stored as int64 too, and numbers of one or two bytes as float32. What torch computes in them is wrapped to their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.graph.small import SMALL, common
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, whole
from rtaccel.convert.patterns.written_expression import Expression
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

INTEGRAL = (torch.int64, torch.int32, torch.bool)
READ = (*INTEGRAL, *SMALL)


class Whole(Expression):
    """The program of one call in whole numbers."""

    gives = (torch.float32, *INTEGRAL, *SMALL)

    def __init__(self, call: Call, casts: bool = False) -> None:
        """casts: float32 is an operand too."""
        super().__init__(call)
        self.operator = with_role(Role.WHOLE).name
        self.dtypes = (*READ, torch.float32) if casts else READ
        if not casts and call.node.meta["val"].dtype == torch.float32:
            raise Refused("gives float32 of whole numbers")

    def operand(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """dtype: what torch computes in, which wraps a number of a wider dtype that has no dimensions before anything is done."""
        word = self._operand(value)
        if dtype is None or (isinstance(value, fx.Node) and value.meta["val"].dtype == dtype):
            return word
        if not word.lstrip("-").isdecimal():
            return self._wrapped(word, dtype)
        low, high = _range(dtype)
        return str((int(word) - low) % (high - low + 1) + low)

    def _operand(self, value: Any) -> str:
        if isinstance(value, (bool, int)):
            return str(int(value))
        if not isinstance(value, fx.Node):
            raise Refused("has an argument that is no tensor and no whole number")
        meta = value.meta.get("val")
        if not isinstance(meta, Tensor) or meta.dtype not in self.dtypes:
            raise Refused("computes with numbers of other dtypes than whole ones")
        return self._tensor(value)

    def view(self, value: fx.Node) -> View:
        return self.call.stored(value)

    def constant(self, tensor: Tensor) -> str:
        if tensor.numel() == 0 or tensor.is_floating_point():
            raise Refused(f"has a constant of {tensor.dtype}")
        if tensor.dim() == 0:
            return str(int(tensor))
        numbers = tensor.detach().long().cpu().reshape(-1)
        self.constants.append((numbers, layout.dense("", tensor.shape, None)))
        return f"c{len(self.constants) - 1}"

    def node(self) -> OpNode:
        self._wrapped(f"t{len(self.lines) - 1}", self.call.node.meta["val"].dtype)
        return super().node()

    def _wrapped(self, word: str, dtype: torch.dtype) -> str:
        """To the numbers of a dtype."""
        if dtype == torch.int32:
            return self.emit("wrap32", word)
        if dtype not in SMALL:
            return word
        low, high = SMALL[dtype]
        bits = self.emit("bitwise_and", word, str(high - low))
        return self.emit("sub", self.emit("bitwise_xor", bits, str(-low)), str(-low)) if low < 0 else bits


def _range(dtype: torch.dtype) -> tuple[int, int]:
    found = torch.iinfo(torch.int64 if dtype == torch.bool else dtype)
    return found.min, found.max


def _computed_in(*operands: Any) -> torch.dtype | None:
    """What torch computes of two operands in; None where that is no dtype of whole numbers."""
    found = common(*operands)
    return found if found in READ and found != torch.bool else None


_OF_ANY = ("mul", "bitwise_and", "bitwise_or", "bitwise_xor", "where")
"""What gives the same bits of a number and of the one that wraps to it: the result is wrapped alone."""


def _functions(name: str, *arguments: str) -> Callable[[Call], OpNode]:
    def apply(call: Call) -> OpNode:
        made = Whole(call)
        given = [call[argument] for argument in arguments or ("self",)]
        dtype = _computed_in(*given) if name not in _OF_ANY else None
        made.emit(name, *(made.operand(value, dtype) for value in given))
        return made.node()

    return apply


for _target, _name in {
    aten.neg: "neg", aten.abs: "abs", aten.sign: "sign", aten.sgn: "sign", aten.bitwise_not: "bitwise_not",
    aten.logical_not: "logical_not", aten.floor: "copy", aten.ceil: "copy", aten.round: "copy", aten.trunc: "copy",
}.items():  # fmt: skip
    whole(_target.default)(_functions(_name))

for _name, _targets in {
    "mul": (aten.mul.Tensor, aten.mul.Scalar), "maximum": (aten.maximum.default,), "minimum": (aten.minimum.default,),
    "floor_divide": (aten.floor_divide.default, aten.floor_divide.Scalar),
    "remainder": (aten.remainder.Tensor, aten.remainder.Scalar), "fmod": (aten.fmod.Tensor, aten.fmod.Scalar),
    "lt": (aten.lt.Tensor, aten.lt.Scalar), "le": (aten.le.Tensor, aten.le.Scalar),
    "gt": (aten.gt.Tensor, aten.gt.Scalar), "ge": (aten.ge.Tensor, aten.ge.Scalar),
    "eq": (aten.eq.Tensor, aten.eq.Scalar), "ne": (aten.ne.Tensor, aten.ne.Scalar),
    "logical_and": (aten.logical_and.default,), "logical_or": (aten.logical_or.default,),
    "logical_xor": (aten.logical_xor.default,),
    "bitwise_and": (aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor),
    "bitwise_or": (aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor),
    "bitwise_xor": (aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar),
}.items():  # fmt: skip
    whole(*_targets)(_functions(_name, "self", "other"))
whole(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)(_functions("where", "condition", "self", "other"))
whole(aten.masked_fill.Scalar, aten.masked_fill.Tensor)(_functions("where", "mask", "value", "self"))
whole(aten.square.default)(_functions("mul", "self", "self"))


@whole(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Tensor, aten.rsub.Scalar)
def _sum(call: Call) -> OpNode:
    made = Whole(call)
    left, right = made.operand(call["self"]), made.operand(call["other"])
    swaps = call.node.target in (aten.rsub.Tensor, aten.rsub.Scalar)
    if call["alpha"] != 1:
        scaled = made.emit("mul", left if swaps else right, made.operand(call["alpha"]))
        left, right = (scaled, right) if swaps else (left, scaled)
    adds = call.node.target in (aten.add.Tensor, aten.add.Scalar)
    left, right = (right, left) if swaps else (left, right)
    truth = call.node.meta["val"].dtype == torch.bool
    made.emit("logical_or" if truth else "add" if adds else "sub", left, right)
    return made.node()


@whole(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _quotient(call: Call) -> OpNode | str:
    if call["rounding_mode"] is None:
        return "gives float32 of whole numbers"
    made = Whole(call)
    name = "floor_divide" if call["rounding_mode"] == "floor" else "trunc_divide"
    dtype = _computed_in(call["self"], call["other"])
    made.emit(name, made.operand(call["self"], dtype), made.operand(call["other"], dtype))
    return made.node()


@whole(aten.clamp.default, aten.clamp.Tensor, aten.clamp_min.default, aten.clamp_max.default, aten.clamp_min.Tensor,
       aten.clamp_max.Tensor, aten.relu.default)  # fmt: skip
def _clamp(call: Call) -> OpNode:
    names: dict[Any, tuple[str | None, str | None]] = {
        aten.clamp_min.default: ("min", None), aten.clamp_min.Tensor: ("min", None),
        aten.clamp_max.default: (None, "max"), aten.clamp_max.Tensor: (None, "max"),
    }  # fmt: skip
    made = Whole(call)
    dtype = call.node.meta["val"].dtype
    value = made.operand(call["self"], dtype)
    if call.node.target is aten.relu.default:
        made.emit("maximum", value, "0")
        return made.node()
    low, high = names.get(call.node.target, ("min", "max"))
    for function, name in (("maximum", low), ("minimum", high)):
        if name is not None and call[name] is not None:
            value = made.emit(function, value, made.operand(call[name], dtype))
    return made.node()


@whole(aten.pow.Tensor_Scalar)
def _power(call: Call) -> OpNode | str:
    """By squaring, from the highest bit of the exponent down: products in int64 wrap as torch's do."""
    exponent = call["exponent"]
    if not isinstance(exponent, int) or not 1 <= exponent < 64:
        return "is a power of whole numbers other than 1 to 63"
    made = Whole(call)
    x = made.operand(call["self"])
    value = made.emit("copy", x)
    for bit in f"{exponent:b}"[1:]:
        value = made.emit("mul", value, value)
        if bit == "1":
            value = made.emit("mul", value, x)
    return made.node()


@whole(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
def _cast(call: Call) -> OpNode | str:
    """Between whole numbers, truth values and float32, which is rounded toward zero."""
    wanted = call.node.meta["val"].dtype
    made = Whole(call, casts=True)
    made.emit("truth" if wanted == torch.bool else "copy", made.operand(call["self"]))
    return made.node()
