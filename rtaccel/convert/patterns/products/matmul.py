"""Rules for matrix products of two computed tensors, or of one and a parameter that no linear layer has."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, general
from rtaccel.convert.patterns.written_expression import Expression


def _plain(call: Call, view: View) -> View:
    """A view whose last two dimensions are one run each."""
    if any(layout.run_of(view, d) is None for d in (-1, -2)):
        if view.has_batch(len(view.dims) - 1) or view.has_batch(len(view.dims) - 2):
            raise Refused("layout: its samples are rows of the product")
        return call.build.packed(view)
    return view


@dataclass(frozen=True)
class Side:
    """An operand: a view of a computed tensor, or of a parameter that lies densely."""

    view: View
    parameter: Tensor | None = None

    @classmethod
    def of(cls, call: Call, value: Any) -> Side:
        constant = call.repeated(value)
        if constant is None:
            return cls(call.elements(value))
        if constant.is_complex() or constant.numel() == 0:
            raise Refused(f"has a parameter of {constant.dtype}")
        return cls(layout.dense("", constant.shape, None), constant.detach().to_dense().float().contiguous())

    def turned(self) -> Side:
        """With the last two dimensions exchanged."""
        n = len(self.view.dims)
        view = layout.permute(self.view, [*range(n - 2), n - 1, n - 2])
        if self.parameter is None:
            return Side(view)
        return Side(layout.dense("", view.shape, None), self.parameter.transpose(-1, -2).contiguous())

    def apart(self, last: int) -> Side:
        """With a dimension of one in front of the last ones."""
        dims = self.view.dims
        at = len(dims) - last
        return Side(View(self.view.base, (*dims[:at], (), *dims[at:]), self.view.offset), self.parameter)

    def as_matrix(self, left: bool) -> Side:
        """A vector as one row, or as one column."""
        view = self.view
        if len(view.dims) != 1:
            return self
        return Side(View(view.base, ((), *view.dims) if left else (*view.dims, ()), view.offset), self.parameter)


def product(call: Call, left: Side, right: Side) -> OpNode:
    """[.., i, k] times [.., k, j]; a vector is a matrix of one row or column that the result does not have."""
    vectors = [len(side.view.dims) == 1 for side in (left, right)]
    left, right = left.as_matrix(True), right.as_matrix(False)
    if layout.run_of(left.view, -2) is None:  # rows of several samples or in several runs: each is a product of its own
        vectors[0], left = True, left.apart(1)
        right = right.apart(2)
    views = [side.view if side.parameter is not None else _plain(call, side.view) for side in (left, right)]
    if all(side.parameter is not None for side in (left, right)):
        raise Refused("reads parameters alone")
    (i, k), j = views[0].shape[-2:], views[1].shape[-1]
    runs = [layout.run_of(views[n], d) for n, d in ((0, -2), (0, -1), (1, -2), (1, -1))]
    row, inner, other, column = (r if r is not None else Atom(1, 0) for r in runs)
    shape = call.shape[: len(call.shape) - vectors.count(False)]
    leading = call.leading(views, [*shape, i, j])[:-2]
    result = call.build._dense_like(View("", (*leading, (Atom(i, 1),), (Atom(j, 1),))))
    found = iteration(View("", result.dims[:-2]), [View(v.base, v.dims[:-2], v.offset) for v in views])
    if found is None:
        raise Refused("layout: its operands' samples are different dimensions")
    batch, (first, second) = found.dims, found.places
    rows = _stride(row)
    if i == 1 and second[-1] == 0:  # products of one row with one matrix: one product
        i, rows, batch, first, second = batch[-1], first[-1], batch[:-1], first[:-1], second[:-1]
    places = ((*first, rows, _stride(inner)), (*second, _stride(other), _stride(column)))
    given = {name: side.parameter for name, side in zip("aw", (left, right)) if side.parameter is not None}
    attrs = {"sizes": (batch, i, j, k), "places": places}
    dims = [d for d, one in zip(result.dims[-2:], vectors) if not one]
    reads = [v.base for v, side in zip(views, (left, right)) if side.parameter is None]
    seen = View("", (*result.dims[:-2], *dims))
    return call.op_node("matmul", reads, seen, prod(batch) * i * j, j, attrs=attrs, tensors=given)


def _stride(atom: Atom) -> int:
    return 0 if atom.size == 1 else atom.stride


@general(aten.matmul.default, aten.bmm.default, aten.mm.default, aten.mv.default, aten.dot.default)
def _matmul(call: Call) -> OpNode:
    names: dict[Any, str] = {aten.matmul.default: "other", aten.mv.default: "vec", aten.dot.default: "tensor"}
    left, right = call["self"], call[names.get(call.node.target, "mat2")]
    shapes = [value.meta["val"].shape for value in (left, right)]
    if min(len(shape) for shape in shapes) > 1 and shapes[0][-1] == 1:
        try:
            return _outer(call, left, right)
        except Refused:
            pass
    return product(call, Side.of(call, left), Side.of(call, right))


def _outer(call: Call, left: Any, right: Any) -> OpNode:
    """A column times a row: each number of the one by each of the other, without a sum."""
    made = Expression(call)
    made.emit("mul", made.operand(left), made.operand(right))
    return made.node()


@general(aten._sparse_mm.default)
def _sparse(call: Call) -> OpNode:
    """A sparse constant is a dense one here."""
    return product(call, Side.of(call, call["sparse"]), Side.of(call, call["dense"]))


@general(aten.linear.default)
def _linear(call: Call) -> OpNode | str:
    """With a weight that is computed."""
    if call["bias"] is not None:
        return "has a bias beside a computed weight"
    return product(call, Side.of(call, call["input"]), Side.of(call, call["weight"]).turned())
