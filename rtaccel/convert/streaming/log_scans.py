"""Recurrences in logarithms as the recurrences that they are, which a stream can go on with for ever.

log h = A + logcumsumexp(b - A) with A = cumsum(a), as minimal gated units are trained, is h_t = exp(a_t) h_(t-1) + exp(b_t). A
falls from step to step without an end, and float32 loses the digits of h with it.

Source: F. A. Heinsen, Efficient Parallelization of a Ubiquitous Sequential Computation, 2023 (arXiv:2311.06281).
"""

from __future__ import annotations

from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call
from rtaccel.convert.frontend.rolled.scan_op import LINEAR_SCAN


def log_scans_as_recurrences(graph: fx.Graph) -> None:
    """In place."""
    for node in list(graph.nodes):
        for total, joined in (node.args[:2], node.args[1::-1]) if node.target is aten.add.Tensor else ():
            parts = _parts(total, joined)
            if parts is None or len(node.args) != 2 or node.kwargs:
                continue
            with graph.inserting_before(node):
                a, b = (insert_call(graph, node, aten.exp.default, (part,)) for part in parts[:2])
                scan = insert_call(graph, node, LINEAR_SCAN, (a, b, parts[2]))
            for user in list(node.users):
                if user.target is aten.exp.default:
                    user.replace_all_uses_with(scan)
            if any(user.target is not aten.exp.default for user in node.users):
                with graph.inserting_before(node):
                    node.replace_all_uses_with(insert_call(graph, node, aten.log.default, (scan,)))
            break
    graph.eliminate_dead_code()


def _parts(total: Any, joined: Any) -> tuple[fx.Node, fx.Node, int] | None:
    """(a, b, dimension) of A + logcumsumexp(b - A)."""
    if not isinstance(total, fx.Node) or not isinstance(joined, fx.Node) or total.target is not aten.cumsum.default:
        return None
    less: Any = joined.args[0] if joined.target is aten.logcumsumexp.default else None
    if not isinstance(less, fx.Node) or less.target is not aten.sub.Tensor or less.kwargs or less.args[1] is not total:
        return None
    a, b, rank = total.args[0], less.args[0], total.meta["val"].dim()
    dims = {int(call.args[1]) % rank for call in (total, joined)}  # type: ignore[arg-type]
    if len(dims) != 1 or not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return None
    return (a, b, dims.pop()) if a.meta["val"].shape == b.meta["val"].shape else None
