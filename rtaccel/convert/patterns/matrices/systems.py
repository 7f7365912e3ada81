"""Rules for systems of linear equations, inverses and factors of small matrices."""

from __future__ import annotations

from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.systems import PIVOTS
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.matrices.operands import MAX_COLUMNS, dense, one_of, operands, square
from rtaccel.convert.patterns.rules import Call, Refused, general


def _solved(call: Call, kind: str, given: dict[str, tuple[Any, list[int]]], n: int, columns: int, turned: bool,
            vector: bool = False) -> OpNode:  # fmt: skip
    """given: by name, each with the order of its last two dimensions.

    turned: the result is the other way round. vector: b and the result are columns without a dimension for it."""
    of_vectors = kind == "pivots" or vector
    found = operands(call, given, call.shape[: -1 if of_vectors else -2], vector)
    made = 1 if kind == "pivots" else columns
    result = dense(call, found, n, made, turned=turned)
    if of_vectors:
        result = View("", result.dims[: len(call.shape)])
    attrs = {"kind": kind, "n": n, "columns": columns if "b" in given else 1, "count": found.count}
    return call.op_node("solve", found.reads, result, found.count * n * made, made if made > 1 else n, attrs=attrs,
                        tensors=found.tensors)  # fmt: skip


@general(aten.linalg_solve.default, aten.linalg_solve_ex.default, aten._linalg_solve_ex.default)
def _solve(call: Call) -> OpNode:
    return solved_on_either_side(one_of(call, 0), call["A"], call["B"], left=bool(call["left"]))


def solved_on_either_side(outer: Call, a: Any, b: Any, *, left: bool, turned: bool = False) -> OpNode:
    """turned: with the transpose of a."""
    n = square(outer, a)
    vector = len(outer.shape) == a.meta["val"].dim() - 1
    order = [0, 1] if left else [1, 0]
    columns = 1 if vector else outer.shape[-1 if left else -2]
    if not isinstance(columns, int) or columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    own = order[::-1] if turned else order
    return _solved(outer, "solve", {"a": (a, own), "b": (b, order)}, n, columns, not left, vector)


@general(aten.linalg_inv.default, aten.linalg_inv_ex.default, aten.inverse.default)
def _inverse(call: Call) -> OpNode:
    a = call["self" if call.node.target is aten.inverse.default else "A"]
    n = square(call, a)
    return _solved(one_of(call, 0), "inverse", {"a": (a, [0, 1])}, n, n, False)


@general(aten.linalg_cholesky.default, aten.linalg_cholesky_ex.default, aten.cholesky.default)
def _cholesky(call: Call) -> OpNode:
    n = square(call, call["self"])
    upper = bool(call["upper"])
    return _solved(one_of(call, 0), "cholesky", {"a": (call["self"], [1, 0] if upper else [0, 1])}, n, n, upper)


@general(aten.linalg_solve_triangular.default)
def _triangular(call: Call) -> OpNode:
    a, b = call["self"], call["B"]
    n = square(call, a)
    left = bool(call["left"])
    below = bool(call["upper"]) != left  # of what is solved: the other way round, a triangle is the other one
    kind = f"{'unit ' if call['unitriangular'] else ''}{'lower' if below else 'upper'}"
    order = [0, 1] if left else [1, 0]
    columns = call.shape[-1 if left else -2]
    if columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    return _solved(call, kind, {"a": (a, order), "b": (b, order)}, n, columns, not left)


@general(aten.triangular_solve.default)
def _older_triangular(call: Call) -> OpNode:
    """The second result is a copy of a."""
    a, b, turned = call["A"], call["self"], bool(call["transpose"])
    n, outer = square(call, a), one_of(call, 0)
    columns = outer.shape[-1]
    if columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    kind = f"{'unit ' if call['unitriangular'] else ''}{'upper' if bool(call['upper']) != turned else 'lower'}"
    return _solved(outer, kind, {"a": (a, [1, 0] if turned else [0, 1]), "b": (b, [0, 1])}, n, columns, False)


@general(aten.cholesky_inverse.default)
def _inverse_by_factor(call: Call) -> OpNode:
    n = square(call, call["self"])
    order = [1, 0] if call["upper"] else [0, 1]
    return _solved(call, "factored", {"a": (call["self"], order), "b": (torch.eye(n), [0, 1])}, n, n, False)


@general(aten.cholesky_solve.default)
def _by_factor(call: Call) -> OpNode:
    a, b = call["input2"], call["self"]
    n = square(call, a)
    columns = call.shape[-1]
    if columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    order = [1, 0] if call["upper"] else [0, 1]
    return _solved(call, "factored", {"a": (a, order), "b": (b, [0, 1])}, n, columns, False)


@general(PIVOTS)
def _pivots(call: Call) -> OpNode:
    n = square(call, call["a"])
    return _solved(call, "pivots", {"a": (call["a"], [0, 1])}, n, 1, False)
