"""Attention that is written out: a softmax of scaled products of queries and keys, times values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.graph.values import sizes
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.frontend.written_out import joined
from rtaccel.convert.patterns.attention import REGROUPED, Mask, attention
from rtaccel.convert.patterns.rules import Call

_PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.einsum.default, aten.baddbmm.default)

_OF_TWO: dict[Any, tuple[str, str]] = {aten.bmm.default: ("self", "mat2"), aten.baddbmm.default: ("batch1", "batch2")}

_LOWEST = -1e30
"""A score from which on its exponential is zero beside any other."""


def by_hand(call: Call) -> OpNode | str:
    """matmul(softmax(matmul(q, k^T) * scale + mask), v), as it is written out; with `bmm` and `einsum` alike. The scores are then
    computed nowhere else."""
    no = "multiplies two computed tensors"
    scores, value = _source(call["self"]), call["mat2" if call.node.target is aten.bmm.default else "other"]
    while _regroups(scores):
        scores = _source(scores.args[0])
    if not isinstance(scores, fx.Node) or scores.target is not aten.softmax.int:
        return no
    soft = Call(call.build, scores)
    if soft["dim"] not in (-1, scores.meta["val"].dim() - 1) or soft["dtype"] not in (None, torch.float32):
        return no
    lowest: float | None = None
    scale, masks, node = 1.0, list[Mask](), _source(soft["self"])
    while isinstance(node, fx.Node) and node.target not in _PRODUCTS:
        inner = Call(call.build, node)
        if node.target in (aten.mul.Tensor, aten.div.Tensor):
            number = _number(call, inner["other"])
            if number is None:
                return no
            scale *= number if node.target is aten.mul.Tensor else 1.0 / number
            node = _source(inner["self"])
        elif _regroups(node):
            node = _source(inner["self"])
        else:
            found = _masked(call, inner) if scale == 1.0 else None
            if found is None:
                return no
            masks += [] if found[1] is None else [found[1]]
            lowest = found[2] if lowest is None else lowest
            node = _source(found[0])
    if isinstance(node, fx.Node) and node.target is aten.baddbmm.default:
        inner = Call(call.build, node)
        added = _constant(call, inner["self"], node)
        if added is None or (scale != 1.0 and inner["beta"]):
            return no
        masks += [Mask.of(added[0].float() * inner["beta"], node, added[1])] if inner["beta"] else []
        scale *= inner["alpha"]
    if lowest is not None:  # masks that are added before: one that hides a key keeps it at the lowest score
        if len(masks) != 1:
            return no
        masks = [replace(masks[0], added=masks[0].added.clamp(min=lowest))]
    product = _product(call, node) if isinstance(node, fx.Node) else None
    if product is None:
        return no
    left, right, transposed = product
    (query, first), (key, second) = (_unscaled(call, n) for n in (left, right))
    scale *= first * second
    leading = sizes(call["self"].meta["val"])[:-2]
    made = attention(call, query, key, value, scale, False, masks, key_transposed=transposed, leading=leading)
    hides = isinstance(made, OpNode) and "mask" in made.tensors and (made.tensors["mask"] == -torch.inf).all(-1).any()
    if isinstance(made, OpNode) and hides:  # a softmax of nothing
        made.attrs["empty_row"] = "nan"
    return made


def _masked(call: Call, inner: Call) -> tuple[Any, Mask | None, float | None] | None:
    """(scores, mask, lowest) of a call that adds a constant, hides some of its scores, or keeps them from being lower than that;
    else None."""
    node = inner.node
    if node.target is aten.add.Tensor and inner["alpha"] == 1:
        for scores, added in (("self", "other"), ("other", "self")):
            if (mask := _constant(call, inner[added], node)) is not None:
                return inner[scores], Mask.of(mask[0], node, mask[1]), None
    elif node.target is aten.masked_fill.Scalar:
        hidden = _constant(call, inner["mask"], node)
        if hidden is not None and inner["value"] <= _LOWEST:
            return inner["self"], _hiding(hidden[0].bool(), inner["value"], node, hidden[1]), None
    elif node.target in (aten.where.self, aten.where.ScalarOther):
        seen, other = _constant(call, inner["condition"], node), _number(call, inner["other"])
        if seen is not None and other is not None and other <= _LOWEST:
            return inner["self"], _hiding(~seen[0].bool(), other, node, seen[1]), None
    elif node.target in (aten.maximum.default, aten.max.other):
        other = _number(call, inner["other"])
        if other is not None and other <= _LOWEST:
            return inner["self"], None, other
    return None


def _constant(call: Call, value: Any, scores: fx.Node) -> tuple[torch.Tensor, tuple[int, ...] | None] | None:
    """(constant, leading) of what is added to scores or hides some: the same for each sample. leading: dimensions in front of the
    last two where samples and heads are joined in one, and the constant has a part for each head; else None."""
    if (found := call.repeated(value)) is not None:
        return found, None
    each = joined(call.build, value) if isinstance(value, fx.Node) else None
    if each is None or each[1] or not each[0].dim() == scores.meta["val"].dim() == 3:
        return None
    constant, _, behind = each
    rows = constant.shape[0]
    leading = rows // behind, sizes(scores.meta["val"])[0] // rows, behind
    return constant.unflatten(0, (leading[0], 1, behind)), leading


def _hiding(hidden: torch.Tensor, low: float, scores: fx.Node, leading: tuple[int, ...] | None) -> Mask:
    """A score and a number so low give that number, as the call does: where it hides all keys of a query, they are alike."""
    return Mask.of(torch.zeros(hidden.shape, device="cpu").masked_fill(hidden.cpu(), low), scores, leading)


def _source(node: Any) -> Any:
    """What a tensor was before calls that change nothing of it."""
    while isinstance(node, fx.Node) and isinstance(node.args[0] if node.args else None, fx.Node):
        source: Any = node.args[0]
        if node.target in (aten.expand.default, *REGROUPED):
            same = _shape(node) == _shape(source)
        elif node.target is aten.permute.default:
            same = _order(node) == list(range(node.meta["val"].dim()))
        else:
            same = node.target in (aten.dropout.default, aten.clone.default)
        if not same:
            break
        node = source
    return node


def _shape(node: fx.Node) -> list[str]:
    """With open sizes as such: the traced one may be that of another dimension."""
    return [str(size) for size in node.meta["val"].shape]


def _regroups(node: Any) -> bool:
    """Whether a call only sees the heads and samples of scores in another shape."""
    if not isinstance(node, fx.Node) or node.target not in REGROUPED or not isinstance(node.args[0], fx.Node):
        return False
    before, after = _shape(node.args[0]), _shape(node)
    return len(before) > 2 and len(after) > 2 and before[-2:] == after[-2:]


def _order(node: fx.Node) -> list[int]:
    """That of the dimensions in a call of `permute`."""
    given: Any = node.args[1]
    return [d % len(given) for d in given]


def _product(call: Call, node: fx.Node) -> tuple[fx.Node, fx.Node, bool] | None:
    """(queries, keys, whether the keys are [.., head_dim, keys]) of scores, or None where they are another product."""
    if node.target is aten.einsum.default:
        equation, operands = node.args[:2]
        labels = _labels(str(equation))
        if len(labels) != 3 or min(map(len, labels)) < 2 or not isinstance(operands, (list, tuple)):
            return None
        left, right, result = labels
        lead, i, j, d = result[:-2], result[-2], result[-1], left[-1]
        if left != lead + i + d or d in result or right not in (lead + j + d, lead + d + j):
            return None
        return _source(operands[0]), _source(operands[1]), right[-1] == j
    inner, (left, right) = Call(call.build, node), _OF_TWO.get(node.target, ("self", "other"))
    query, key = _source(inner[left]), _source(inner[right])
    turned = _turned(call, key)
    return query, turned or key, turned is None


def _labels(equation: str) -> list[str]:
    """Of the operands and then of the result of an einsum, an ellipsis as one letter."""
    return equation.replace(" ", "").replace("...", "@").replace("->", ",").split(",")


def _turned(call: Call, node: Any) -> fx.Node | None:
    """What keys were before their last two dimensions were exchanged by a call of that alone."""
    if not isinstance(node, fx.Node):
        return None
    rank = node.meta["val"].dim()
    if node.target is aten.permute.default:
        source = node.args[0]
        swapped = _order(node) == [*range(rank - 2), rank - 1, rank - 2]
        return source if swapped and isinstance(source, fx.Node) else None
    if node.target is not aten.transpose.int:
        return None
    inner = Call(call.build, node)
    return inner["self"] if {inner["dim0"] % rank, inner["dim1"] % rank} == {rank - 2, rank - 1} else None


def _unscaled(call: Call, node: fx.Node) -> tuple[fx.Node, float]:
    """What queries or keys were before they were multiplied by a number, and the number."""
    number = 1.0
    while isinstance(node, fx.Node) and node.target in (aten.mul.Tensor, aten.div.Tensor):
        inner = Call(call.build, node)
        factor = _number(call, inner["other"])
        if factor is None or not isinstance(inner["self"], fx.Node) or call.constant(inner["self"]) is not None:
            break
        number *= factor if node.target is aten.mul.Tensor else 1.0 / factor
        node = inner["self"]
    return node, number


def _number(call: Call, value: Any) -> float | None:
    factor = call.constant(value)
    if factor is not None and factor.numel() == 1:
        return float(factor)
    return float(value) if isinstance(value, (int, float)) else None
