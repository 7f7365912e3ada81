"""Rules for eigenvalues and singular values of small matrices, and for what is computed from them.

Vectors stay PyTorch's: their signs are those of its rounding (docs/decisions/0112-more-of-small-matrices.md).
"""

from __future__ import annotations

from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.exported.least_squares import LSTSQ, is_vector
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.matrices.operands import MAX_COLUMNS, dense, one_of, operands, sizes, square
from rtaccel.convert.patterns.rules import Call, Refused, general

EPS = torch.finfo(torch.float32).eps


@general(aten.linalg_eigvalsh.default)
def _eigenvalues(call: Call) -> OpNode:
    return _of_symmetric(call, "self")


@general(aten.linalg_eigh.default)
def _first_of_eigh(call: Call) -> OpNode:
    return _of_symmetric(_values_of(call, 0), "self")


@general(aten._linalg_eigh.default)
def _first_of_either(call: Call) -> OpNode:
    return _of_symmetric(_values_of(call, 0), "A")


def _values_of(call: Call, place: int) -> Call:
    try:
        return one_of(call, place)
    except Refused:
        raise Refused("gives vectors, whose signs are those of PyTorch's rounding") from None


def _of_symmetric(call: Call, name: str) -> OpNode:
    n = square(call, call[name])
    if call["UPLO"].upper() not in ("L", "U"):
        raise Refused(f"reads the triangle {call['UPLO']!r}")
    order = [0, 1] if call["UPLO"].upper() == "L" else [1, 0]
    found = operands(call, {"a": (call[name], order)}, call.shape[:-1])
    attrs = {"n": n, "count": found.count}
    return call.op_node("eigvalsh", found.reads, dense(call, found, n), found.count * n, n, attrs=attrs)


@general(aten.linalg_svdvals.default)
def _singular(call: Call) -> OpNode:
    return _svd(call, "values", call["A"])


@general(aten.linalg_svd.default, aten._linalg_svd.default)
def _second_of_svd(call: Call) -> OpNode:
    return _svd(_values_of(call, 1), "values", call["A"])


@general(aten.svd.default)
def _second_of_older_svd(call: Call) -> OpNode:
    return _svd(_values_of(call, 1), "values", call["self"])


def _number(call: Call, value: Any) -> float | None:
    """A limit that is given as a number or as a constant of one number."""
    if value is None or isinstance(value, (int, float)):
        return value
    constant = call.constant(value)
    if constant is None or constant.numel() != 1:
        raise Refused("has a limit for each matrix")
    return float(constant)


def _limits(call: Call, value: Any, atol: Any, rtol: Any) -> dict[str, float]:
    """As torch has them: without either, singular values up to the largest side times eps times the largest one count as 0."""
    least, part = _number(call, atol), _number(call, rtol)
    if part is None:
        part = 0.0 if least is not None and least > 0 else max(sizes(call, value)) * EPS
    found = {"atol": 0.0 if least is None else float(least), "rtol": float(part)}
    if not all(0 <= limit < 1e30 for limit in found.values()):
        raise Refused(f"has the limits {found}")
    return found


@general(aten.linalg_pinv.atol_rtol_float, aten.linalg_pinv.atol_rtol_tensor)
def _inverse(call: Call) -> OpNode:
    a = call["self"]
    return _svd(call, "pinv", a, _limits(call, a, call["atol"], call["rtol"]), bool(call["hermitian"]))


@general(aten.linalg_pinv.default, aten.linalg_pinv.rcond_tensor)
def _inverse_to_a_limit(call: Call) -> OpNode:
    a = call["self"]
    return _svd(call, "pinv", a, _limits(call, a, 0.0, call["rcond"]), bool(call["hermitian"]))


@general(aten.pinverse.default)
def _older_inverse(call: Call) -> OpNode:
    return _svd(call, "pinv", call["self"], _limits(call, call["self"], 0.0, call["rcond"]))


@general(LSTSQ)
def _least(call: Call) -> OpNode:
    a, b = call["a"], call["b"]
    vector = is_vector(a.meta["val"], b.meta["val"])
    right = 1 if vector else call.shape[-1]
    if right > MAX_COLUMNS:
        raise Refused("has too many right sides")
    limits = _limits(call, a, 0.0, 0.0 if call["driver"] == "gels" else call["rcond"])
    return _svd(call, "least", a, limits, b=b, right=right, vector=vector)


def _svd(call: Call, kind: str, a: Any, limits: dict[str, float] | None = None, mirrored: bool = False, b: Any = None,
         right: int = 1, vector: bool = False) -> OpNode:  # fmt: skip
    rows, columns = sizes(call, a)
    given = {"a": (a, [0, 1])} | ({} if b is None else {"b": (b, [0, 1])})
    sides = {"values": (min(rows, columns),), "pinv": (columns, rows), "least": (columns, right)}[kind]
    without = 1 if kind == "values" or vector else 2
    found = operands(call, given, call.shape[:-without], vector)
    result = dense(call, found, *sides)
    if vector:
        result = View("", result.dims[: len(call.shape)])
    attrs = {
        "kind": kind, "rows": rows, "columns": columns, "right": right, "count": found.count, "mirrored": int(mirrored),
        **(limits or {"atol": 0.0, "rtol": 0.0}),
    }  # fmt: skip
    elements = found.count * torch.Size(sides).numel()
    width = sides[-1] if sides[-1] > 1 else sides[0]
    return call.op_node("svd", found.reads, result, elements, width, attrs=attrs, tensors=found.tensors)
