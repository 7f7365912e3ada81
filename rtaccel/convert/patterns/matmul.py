"""Rules for matrix products of two computed tensors."""

from __future__ import annotations

from math import prod

import torch

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, general

aten = torch.ops.aten


def _plain(call: Call, view: View) -> View:
    """A view whose last two dimensions are one run each."""
    if any(layout.run_of(view, d) is None for d in (-1, -2)):
        if view.has_batch(len(view.dims) - 1) or view.has_batch(len(view.dims) - 2):
            raise Refused("layout: its samples are rows of the product")
        return call.build.packed(view)
    return view


def product(call: Call, left: View, right: View) -> OpNode:
    """[.., i, k] times [.., k, j]"""
    left, right = _plain(call, left), _plain(call, right)
    (i, k), j = left.shape[-2:], right.shape[-1]
    runs = [layout.run_of(v, d) for v, d in ((left, -2), (left, -1), (right, -2), (right, -1))]
    row, inner, other, column = (r if r is not None else Atom(1, 0) for r in runs)
    result = call.build._dense_like(
        View("", (*call.leading((left, right), call.shape)[:-2], (Atom(i, 1),), (Atom(j, 1),)))
    )
    batch = View("", result.dims[:-2])
    found = iteration(batch, [View(v.base, v.dims[:-2], v.offset) for v in (left, right)])
    if found is None:
        raise Refused("layout: its operands' samples are different dimensions")
    places = (
        (*found.places[0], _stride(row), _stride(inner)),
        (*found.places[1], _stride(other), _stride(column)),
    )
    attrs = {"sizes": (found.dims, i, j, k), "places": places}
    elements = prod(found.dims) * i * j
    return call.op_node("matmul", [left.base, right.base], result, elements, j, attrs=attrs)


def _stride(atom: Atom) -> int:
    return 0 if atom.size == 1 else atom.stride


@general(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(call: Call) -> OpNode | str:
    left, right = call["self"], call["other" if call.node.target is aten.matmul.default else "mat2"]
    if call.repeated(left) is not None or call.repeated(right) is not None:
        return "has a parameter on its left side, or a right one of more than two dimensions"
    a, w = call.elements(left), call.elements(right)
    if len(a.dims) < 2 or len(w.dims) < 2:
        return "is a product with a vector"
    return product(call, a, w)


@general(aten.linear.default)
def _linear(call: Call) -> OpNode | str:
    """With a weight that is computed."""
    if (
        call["bias"] is not None
        or call.repeated(call["weight"]) is not None
        or call.repeated(call["input"]) is not None
    ):
        return "has a bias beside a computed weight"
    weight = call.elements(call["weight"])
    turned = layout.permute(weight, [*range(len(weight.dims) - 2), len(weight.dims) - 1, len(weight.dims) - 2])
    return product(call, call.elements(call["input"]), turned)
