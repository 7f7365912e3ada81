"""The rule for sums over decision trees."""

from __future__ import annotations

from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, rule
from rtaccel.kernels.tree_ensemble import contract
from rtaccel.nn.trees import TREE_ENSEMBLE


@rule(TREE_ENSEMBLE)
def _trees(call: Call) -> OpNode | str:
    tables = {name: call.constant(call[name]) for name in contract.TABLES}
    known = {name: table for name, table in tables.items() if table is not None}
    if len(known) < len(tables):
        return "its tables are computed, not constants"
    view = call.rows(call["x"])
    attrs = {
        "trees": known["root"].numel(),
        "depth": call["depth"],
        "strict": int(call["strict"]),
    }  # held to the tables later
    return call.row_wise("tree_ensemble", view, known["value"].shape[1], tensors=known, attrs=attrs)
