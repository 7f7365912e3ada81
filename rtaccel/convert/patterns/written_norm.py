"""Root-mean-square norms written out, over the last dimension: x * rsqrt(mean(x^2) + eps), or x / sqrt(mean(x^2) + eps)."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call


def by_hand(call: Call, x: Any, factor: Any) -> OpNode | None:
    """The norm of x, where the factor is what x is multiplied with (or, in a quotient, divided by) for that; else None."""
    root = aten.sqrt.default if call.node.target is aten.div.Tensor else aten.rsqrt.default
    if not isinstance(x, fx.Node) or not isinstance(factor, fx.Node) or factor.target is not root:
        return None
    eps, mean = 0.0, factor.args[0]
    if isinstance(mean, fx.Node) and mean.target is aten.add.Tensor:
        total = Call(call.build, mean)
        given = call.constant(total["other"])
        number = float(given) if given is not None and given.numel() == 1 else total["other"]
        if not isinstance(number, (int, float)) or total["alpha"] != 1 or not number >= 0:
            return None
        eps, mean = float(number), total["self"]
    if not isinstance(mean, fx.Node) or mean.target is not aten.mean.dim:
        return None
    averaged, rank = Call(call.build, mean), x.meta["val"].dim()
    last = [d % rank for d in averaged["dim"] or ()] == [rank - 1]
    if not last or not averaged["keepdim"] or averaged["dtype"] is not None or squared(averaged["self"]) is not x:
        return None
    view = call.rows(x)
    width = call.width(view)
    return call.row_wise("norm", view, width, tensors={"weight": torch.ones(width)}, attrs={"kind": "rms", "eps": eps})


def squared(node: Any) -> fx.Node | None:
    """x, where the node is x * x or x ** 2."""
    if not isinstance(node, fx.Node) or len(node.args) < 2:
        return None
    x, factor = node.args[:2]
    squares = (node.target == aten.pow.Tensor_Scalar and factor == 2) or (
        node.target == aten.mul.Tensor and factor is x
    )
    return x if squares and isinstance(x, fx.Node) else None
