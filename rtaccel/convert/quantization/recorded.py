"""Ranges that a model brings along: values quantized and dequantized in front of a layer, as files with QDQ pairs have them.

    t = clamp(round(x / scale) + zero, low, high),   u = t - zero,   y = u * scale

with constants, and 255 steps or fewer from low to high. Each of t, u and y is exact in int8: t and u with scale 1, y with
`scale`. Which of them a layer reads depends on what was folded into its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.core.stage import QParams

_SAME = (aten.reshape.default, aten.view.default, aten._to_copy.default)


def recorded_ranges(exported: ExportedGraph) -> dict[str, QParams]:
    """Name of a node of the graph -> what its values are in int8, exactly."""
    found: dict[str, QParams] = {}
    for node in exported.graph.nodes:
        if node.target is aten.clamp.default:
            _record(exported.constants, node, found)
    return found


def _record(constants: Mapping[str, Tensor], clamp: fx.Node, found: dict[str, QParams]) -> None:
    low: Any
    high: Any
    low, high = (
        clamp.args[i] if len(clamp.args) > i else clamp.kwargs.get(name) for i, name in ((1, "min"), (2, "max"))
    )
    if not _whole(low) or not _whole(high) or not 0 < high - low <= 255:
        return
    zero, inner = 0.0, clamp.args[0]
    if isinstance(inner, fx.Node) and inner.target is aten.add.Tensor:
        number = _number(constants, inner.args[1])
        if number is None or not _whole(number):
            return
        zero, inner = number, inner.args[0]
    if not isinstance(inner, fx.Node) or inner.target is not aten.round.default:
        return
    quotient = inner.args[0]
    if not isinstance(quotient, fx.Node) or quotient.target is not aten.div.Tensor:
        return
    scale = _number(constants, quotient.args[1])
    if scale is None or not 0.0 < scale < float("inf") or not low <= zero <= high:
        return
    place = int(zero) - int(low) - 128
    if low <= 0 <= high:
        found[clamp.name] = QParams(1.0, -int(low) - 128)
    for user in clamp.users:
        centered = user.target is aten.sub.Tensor and _number(constants, user.args[1]) == zero
        if centered:
            found[user.name] = QParams(1.0, place)
        for last in user.users if centered else [user]:
            if (
                (centered or zero == 0.0)
                and last.target is aten.mul.Tensor
                and _number(constants, last.args[1]) == scale
            ):
                found[last.name] = QParams(scale, place)


def _whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and float(value).is_integer()


def _number(constants: Mapping[str, Tensor], arg: Any) -> float | None:
    """A constant of one element."""
    if isinstance(arg, (int, float)):
        return float(arg)
    tensor = constants.get(arg.name) if isinstance(arg, fx.Node) else None
    if tensor is None and isinstance(arg, fx.Node) and arg.target in _SAME:
        return _number(constants, arg.args[0])
    return float(tensor.reshape(-1)[0]) if tensor is not None and tensor.numel() == 1 else None
