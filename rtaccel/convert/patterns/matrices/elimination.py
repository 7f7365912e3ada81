"""Rules for triangular factors by elimination, and for what reads them."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import OpNode, module_name
from rtaccel.convert.patterns.matrices.operands import dense, operands, results, sizes
from rtaccel.convert.patterns.matrices.systems import solved_on_either_side
from rtaccel.convert.patterns.rules import Call, Refused, general

FACTORS = (aten.linalg_lu_factor.default, aten.linalg_lu_factor_ex.default)


@general(aten.linalg_lu.default)
def _three(call: Call) -> OpNode:
    return _factored(call, call["A"], ("p", "l", "u"), refuses=False)


@general(*FACTORS)
def _two(call: Call) -> OpNode:
    """The third one says that a pivot is 0, which then is an error."""
    return _factored(call, call["A"], ("lu", "pivots"), refuses=True)


@general(aten.lu_unpack.default)
def _unpacked(call: Call) -> OpNode:
    return _factored(call, _source(call, call["LU_data"], call["LU_pivots"]), ("p", "l", "u"), refuses=True)


@general(aten.linalg_lu_solve.default)
def _solved(call: Call) -> OpNode:
    """With the matrix itself: nothing is rounded in between."""
    a = _source(call, call["LU"], call["pivots"])
    b, left, adjoint = call["B"], bool(call["left"]), bool(call["adjoint"])
    return solved_on_either_side(call, a, b, left=left, turned=adjoint)


def _source(call: Call, both: Any, pivots: Any) -> Any:
    """The matrix whose factors these are."""
    parts: list[Any] = [
        node.args if isinstance(node, fx.Node) and node.target is operator.getitem else (None, None)
        for node in (both, pivots)
    ]
    (made, first), (other, second) = parts
    if made is None or made is not other or made.target not in FACTORS or (first, second) != (0, 1):
        raise Refused("reads factors that are not those of a lu_factor in the model")
    return made.args[0]


def _factored(call: Call, a: Any, names: tuple[str, ...], refuses: bool) -> OpNode:
    """names: of the results of the call, in its order."""
    rows, columns = sizes(call, a)
    if call.node.kwargs.get("pivot", True) is False:
        raise Refused("takes pivots as they come")
    least = min(rows, columns)
    sides = {"p": (rows, rows), "l": (rows, least), "u": (least, columns), "lu": (rows, columns), "pivots": (least,)}
    read = {i: node for i, node in results(call).items() if any(r.target is not _CHECK for r in node.users)}
    if not read or max(read) >= len(names):
        raise Refused("gives results that are not read, or an error code that is")
    gives = {name: read[i] for i, name in enumerate(names) if i in read}
    name, node = next(iter(gives.items()))
    found = operands(call, {"a": (a, [0, 1])}, Call(call.build, node).shape[: -len(sides[name])])
    writes = [
        call.give(node, dense(call, found, *sides[name]), found.count * prod(sides[name]), sides[name][-1])
        for name, node in gives.items()
    ]
    attrs = {"rows": rows, "columns": columns, "count": found.count, "gives": ",".join(gives), "refuses": int(refuses)}
    return OpNode("lu", call.node, module_name(call.node), found.reads, writes, attrs=attrs)


_CHECK = aten._linalg_check_errors.default
