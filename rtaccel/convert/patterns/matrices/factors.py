"""Rules for the exponential and the orthogonal factors of small matrices."""

from __future__ import annotations

from math import prod

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import OpNode, module_name
from rtaccel.convert.patterns.matrices.operands import dense, operands, results, sizes, square
from rtaccel.convert.patterns.rules import Call, Refused, general


@general(aten.linalg_matrix_exp.default, aten.matrix_exp.default)
def _exponential(call: Call) -> OpNode:
    n = square(call, call["self"])
    found = operands(call, {"a": (call["self"], [0, 1])}, call.shape[:-2])
    attrs = {"n": n, "count": found.count}
    return call.op_node("matrix_exp", found.reads, dense(call, found, n, n), found.count * n * n, n, attrs=attrs)


@general(aten.linalg_qr.default)
def _qr(call: Call) -> OpNode:
    return _factored(call, "A", call["mode"] == "complete")


@general(aten.qr.default)
def _older_qr(call: Call) -> OpNode:
    return _factored(call, "self", not call["some"])


def _factored(call: Call, name: str, complete: bool) -> OpNode:
    rows, columns = sizes(call, call[name])
    inner = rows if complete else min(rows, columns)
    sides = {"q": (rows, inner), "r": (inner, columns)}
    gives = {part: results(call)[i] for i, part in enumerate(sides) if i in results(call)}
    if not gives:
        raise Refused("gives factors that nobody reads")
    lead = Call(call.build, next(iter(gives.values()))).shape[:-2]
    found = operands(call, {"a": (call[name], [0, 1])}, lead)
    writes = [
        call.give(node, dense(call, found, *sides[part]), found.count * prod(sides[part]), sides[part][1])
        for part, node in gives.items()
    ]
    attrs = {
        "rows": rows, "columns": columns, "count": found.count, "complete": int(complete), "gives": ",".join(gives),
    }  # fmt: skip
    return OpNode("qr", call.node, module_name(call.node), found.reads, writes, attrs=attrs)
