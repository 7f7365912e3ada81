"""`flex_attention`: attention whose scores go through a function of the caller, as products, that function, and a softmax.

    y = softmax(where(mask(b, h, i, j), mod(scale q k^T, b, h, i, j), -inf)) v,   0 for a query that sees no key

The functions are of one score and its indices. Over index tensors that broadcast they give those of all scores.
A block mask says where the mask is false for whole blocks; what is computed does not depend on it.
Source: Dong et al.: FlexAttention, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import depended_on
from rtaccel.convert.frontend.subgraphs.inline import RULES, Call, results


def _flex_attention(call: Call) -> Sequence[fx.Node] | None:
    q, k, v, score_mod, block_mask, scale, _, *others = call.args
    of_scores, of_mask = others if others else ((), ())
    readers = {int(reader.args[1]) for reader in call.node.users if reader.users}  # type: ignore[arg-type]
    if readers - {0} or not isinstance(scale, (int, float)):
        return None  # sums and maxima of the scores are asked for
    mod, mask = call.subgraph(score_mod), call.subgraph(block_mask[-1])
    grids = _grids(call, q, k)
    seen = None if _is_constant(mask) else call.copied(mask, [*grids, *of_mask])[0]
    adds = _bias(mod)
    if adds is not None:
        sign, rest = adds
        bias = None if rest is None else call.copied(mod, [q, *grids, *of_scores], rest)[0]
        if sign < 0:
            bias = call.write(aten.neg.default, bias)
        y = call.write(aten.scaled_dot_product_attention.default, q, k, v, _mask(call, q, k, seen, bias), scale=scale,
                       enable_gqa=True)  # fmt: skip
        return [y]
    k, v = (_for_each_head(call, q, n) for n in (k, v))
    scores = call.write(aten.matmul.default, q, call.write(aten.transpose.int, k, -2, -1))
    scores = call.write(aten.mul.Tensor, scores, scale)
    scores = call.copied(mod, [scores, *grids, *of_scores])[0]
    if seen is not None:
        scores = call.write(aten.masked_fill.Scalar, scores, call.write(aten.logical_not.default, seen), -math.inf)
    weights = call.write(aten.softmax.int, scores, -1)
    if seen is not None:
        none = call.write(aten.logical_not.default, call.write(aten.any.dim, seen, -1, True))
        weights = call.write(aten.masked_fill.Scalar, weights, none, 0.0)
    return [call.write(aten.matmul.default, weights, v)]


def _grids(call: Call, q: fx.Node, k: fx.Node) -> list[fx.Node]:
    """Indices of samples, heads, queries and keys, each in a dimension of its own."""
    made = []
    for dim, (node, size) in enumerate(((q, 0), (q, 1), (q, 2), (k, 2))):
        count: Any = node.meta["val"].shape[size]
        if not isinstance(count, int):
            count = call.write(aten.sym_size.int, node, size)
        shape = [1] * 4
        shape[dim] = -1
        device = node.meta["val"].device
        made.append(call.write(aten.view.default, call.write(aten.arange.default, count, device=device), shape))
    return made


def _for_each_head(call: Call, q: fx.Node, n: fx.Node) -> fx.Node:
    """Keys or values for each head of the queries, where several share one."""
    own, shape = q.meta["val"].shape[1], n.meta["val"].shape
    if own == shape[1]:
        return n
    one = call.write(aten.unsqueeze.default, n, 2)
    each = call.write(aten.expand.default, one, [-1, -1, own // shape[1], -1, -1])
    return call.write(aten.flatten.using_ints, each, 1, 2)


def _bias(mod: fx.Graph) -> tuple[int, fx.Node | None] | None:
    """Where a function leaves scores as they are, or adds or subtracts what does not depend on them: its sign, and that."""
    found, score = results(mod)[0], next(n for n in mod.nodes if n.op == "placeholder")
    if found is score:
        return 1, None
    if not isinstance(found, fx.Node) or found.kwargs or len(found.args) != 2:
        return None
    first, second = found.args
    sums = {aten.add.Tensor: ((first, second, 1), (second, first, 1)), aten.sub.Tensor: ((first, second, -1),)}
    for own, rest, sign in sums.get(found.target, ()):
        if own is score and isinstance(rest, fx.Node) and score not in depended_on([rest]):
            return sign, rest
    return None


def _mask(call: Call, q: fx.Node, k: fx.Node, seen: fx.Node | None, bias: fx.Node | None) -> fx.Node | None:
    """What is added to the scores, or the keys that are seen; over queries and keys."""
    made = seen
    if bias is not None:
        made = (
            bias
            if bias.meta["val"].dtype == q.meta["val"].dtype
            else call.write(aten.to.dtype, bias, q.meta["val"].dtype)
        )
        if seen is not None:
            made = call.write(aten.where.ScalarOther, seen, made, -math.inf)
    if made is None:
        return None
    shape = made.meta["val"].shape
    lead = [-1] * (len(shape) - 2)
    return call.write(aten.expand.default, made, [*lead, q.meta["val"].shape[2], k.meta["val"].shape[2]])


def _is_constant(mask: fx.Graph) -> bool:
    """Whether it is true everywhere: what flex_attention takes where nobody gives a mask."""
    found = results(mask)[0]
    return isinstance(found, fx.Node) and found.target in (aten.new_ones.default, aten.ones_like.default)


RULES["torch.flex_attention"] = _flex_attention
