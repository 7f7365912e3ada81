"""Rules for calls that draw random numbers: uniform ones are drawn, and other distributions are a formula of those.

The numbers are not torch's. They are of the same distribution, and follow from `torch.initial_seed()` and the place of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.expression import Expression
from rtaccel.convert.patterns.rules import Call, Refused, rule
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

TURN = repr(6.283185307179586)
LEAST = repr(2.0**-25)
"""Half of the smallest step of a uniform number: an exponential one is not zero."""


class Drawn(Expression):
    """A formula of `uniforms` numbers for each element of the result, all in [0, 1). `u(i)` is the word of one."""

    def __init__(self, call: Call, uniforms: int = 1, like: str | None = None) -> None:
        """like: the argument whose samples the result has, where it has any."""
        super().__init__(call)
        made = call.node.meta["val"]
        if not isinstance(made, Tensor) or made.dtype != torch.float32:
            raise Refused("draws other numbers than float32")
        self.source, dims = self._place(like)
        plain = call.build._dense_like(View("", dims))
        elements = prod(a.size for a in plain.atoms if not a.batch)
        if elements == 0 or made.numel() == 0:
            raise Refused("has no elements")
        self.name = f"{call.node.name}:drawn"
        self.elements, self.plain, self.width = elements, plain, self._last(plain)
        call.build.buffers[self.name] = Buffer(uniforms * elements, self.width)
        for i in range(uniforms):
            self.views.append(View(self.name, plain.dims, i * elements))
        call.build.op_nodes.append(self._drawing([self.name]))

    def u(self, index: int) -> str:
        return f"x{index}"

    def _place(self, like: str | None) -> tuple[str, tuple[tuple[Atom, ...], ...]]:
        """(a value with the samples of the result, the dimensions of the result)"""
        call, build = self.call, self.call.build
        view = build.view(call[like]) if like is not None else None
        if view is not None:
            return view.base, tuple(call.leading([view], call.shape))
        given = [build.views[name] for name in build.exported.inputs if name in build.views]
        if not given:
            raise Refused("layout: no input has the samples")
        dims = [(Atom(size, 1),) for size in call.shape]
        if build.batch is None:
            return given[0].base, tuple(dims)
        batched = [v for v in given if v.batch_dim == 0]
        first = call.node.meta["val"].shape[:1]
        if not batched or not first or isinstance(first[0], int) or not first[0].node.expr.is_Symbol:
            raise Refused("layout: draws the same numbers for all samples")
        return batched[0].base, (batched[0].dims[0], *dims[1:])

    @staticmethod
    def _last(plain: View) -> int:
        inner = plain.dims[-1] if plain.dims else ()
        return prod(a.size for a in inner if not a.batch) if not any(a.batch for a in inner) else 1

    def _drawing(self, writes: list[str]) -> OpNode:
        build, node = self.call.build, self.call.node
        op = with_role(Role.DRAW).name
        place = sum(not made.is_fallback and made.operator.role is Role.DRAW for made in build.op_nodes)
        attrs = {"seed": torch.initial_seed() % (1 << 63), "place": place}
        return OpNode(op, node, module_name(node), [self.source], writes, attrs=attrs)

    def normal(self) -> str:
        """By Box and Muller: the length of a pair of normal numbers, and its angle."""
        length = self.emit("sqrt", self.emit("mul", "-2.0", self.emit("log", self.emit("sub", "1.0", self.u(0)))))
        return self.emit("mul", length, self.emit("cos", self.emit("mul", TURN, self.u(1))))


@rule(aten.rand.default, aten.rand_like.default)
def _uniform(call: Call) -> OpNode:
    made = Drawn(call, like="self" if call.node.target is aten.rand_like.default else None)
    made.emit("copy", made.u(0))
    return made.node()


@rule(aten.randn.default, aten.randn_like.default)
def _normal(call: Call) -> OpNode:
    made = Drawn(call, 2, "self" if call.node.target is aten.randn_like.default else None)
    made.normal()
    return made.node()


def _shifted(mean: str, std: str, like: str | None) -> Callable[[Call], OpNode | str]:
    def apply(call: Call) -> OpNode | str:
        if isinstance(call[std], (int, float)) and call[std] < 0:
            return "has a negative standard deviation"
        made = Drawn(call, 2, like)
        scaled = made.emit("mul", made.normal(), made.operand(call[std]))
        made.emit("add", scaled, made.operand(call[mean]))
        return made.node()

    return apply


rule(aten.normal_functional.default)(_shifted("mean", "std", "self"))
rule(aten.normal.Tensor_Tensor, aten.normal.Tensor_float)(_shifted("mean", "std", "mean"))
rule(aten.normal.float_Tensor)(_shifted("mean", "std", "std"))
rule(aten.normal.float_float)(_shifted("mean", "std", None))


@rule(aten.uniform.default)
def _between(call: Call) -> OpNode | str:
    low, high = float(call["from"]), float(call["to"])
    if not low <= high:
        return "draws from an empty range"
    made = Drawn(call, like="self")
    made.emit("add", made.emit("mul", made.u(0), repr(high - low)), repr(low))
    return made.node()


@rule(aten.bernoulli.p, aten.bernoulli.default)
def _truths(call: Call) -> OpNode:
    """1 with a probability: of its own for each element, or the same for all."""
    made = Drawn(call, like="self")
    same = call.node.target is aten.bernoulli.p
    made.emit("lt", made.u(0), made.operand(call["p" if same else "self"]))
    return made.node()


@rule(aten.exponential.default)
def _waiting(call: Call) -> OpNode | str:
    rate = call["lambd"]
    if not rate > 0:
        return "has a rate that is not above 0"
    made = Drawn(call, like="self")
    waited = made.emit("neg", made.emit("log", made.emit("sub", "1.0", made.u(0))))
    made.emit("div", made.emit("maximum", waited, LEAST), repr(float(rate)))
    return made.node()
