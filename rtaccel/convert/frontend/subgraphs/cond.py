"""Branches that a truth value decides, `torch.cond`: both are computed, and the truth value takes the results of one.

Branches of torch.cond change nothing, so what is computed for nothing has no effect but its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.subgraphs.inline import RULES, Call


def _cond(call: Call) -> Sequence[fx.Node] | None:
    truth, yes, no, operands = call.args
    if not isinstance(truth, fx.Node):
        return None
    of_yes, of_no = (call.copied(call.subgraph(part), operands) for part in (yes, no))
    if not all(_is_tensor(result) for result in (*of_yes, *of_no)):
        return None
    return [call.write(aten.where.self, truth, a, b) for a, b in zip(of_yes, of_no)]


def _is_tensor(result: Any) -> bool:
    return isinstance(result, fx.Node) and isinstance(result.meta.get("val"), Tensor)


RULES["torch.cond"] = _cond
