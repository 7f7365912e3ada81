"""Rules for attention (torch's fused call, and the products and softmax written out) and for embedding lookups."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, rule

aten = torch.ops.aten


@dataclass(frozen=True)
class Heads:
    """Queries, keys or values [.., heads, steps, head_dim] in packed columns of a value, which has so many sequences of steps.

    leading: of each dimension in front of the steps, the runs that are no samples: ("head" or "sequence", size, stride), with the
    stride in heads or in sequences.
    """

    base: str
    column: int
    heads: int
    steps: int
    head_dim: int
    sequences: int
    leading: tuple[tuple[tuple[str, int, int], ...], ...]


def heads_of(call: Call, node: fx.Node, transposed: bool = False) -> tuple[Heads, View]:
    """Where the heads of a tensor lie; packs them where they lie otherwise. transposed: keys as [.., head_dim, steps]."""
    view = call.view(node)
    if transposed:
        view = layout.permute(view, [*range(len(view.dims) - 2), len(view.dims) - 1, len(view.dims) - 2])
    found = _heads(call, view)
    if found is None:
        rank = len(view.dims)
        order = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
        turned = layout.permute(view, order)
        width = view.shape[-1] * (view.shape[-3] if rank >= 3 and not view.has_batch(rank - 3) else 1)
        packed = call.build.packed(turned, width=width)
        view = layout.permute(packed, order)
        found = _heads(call, view)
    if found is None:
        raise Refused("layout: its heads are no columns of a value")
    return found, view


def _heads(call: Call, view: View) -> Heads | None:
    rank = len(view.dims)
    if rank < 3 or view.has_batch(rank - 1) or view.has_batch(rank - 2):
        return None
    time, depth = layout.run_of(view, rank - 2), layout.run_of(view, rank - 1)
    if time is None or depth is None or (depth.size > 1 and depth.stride != 1):
        return None
    size, buffer = depth.size, call.build.buffers[view.base]
    own = [[a for a in dim if not a.batch and a.size > 1] for dim in view.dims[: rank - 2]]
    inside = [
        a for a in own[-1] if _is_head(a, size, buffer.width or time.stride)
    ]  # samples and heads may be one dimension
    heads = layout.merged(inside)
    if len(heads) > 1 or (heads and heads[0].stride != size):
        return None
    count = heads[0].size if heads else 1
    around = [a for dim in own for a in dim if a not in inside]
    sequences = prod(a.size for a in around)
    width = buffer.width or (time.stride if time.size > 1 else buffer.elements // sequences)
    column = view.offset % width
    each = time.size * width
    fits = time.size == 1 or time.stride == width
    if not fits or column + count * size > width or view.offset != column or buffer.elements != sequences * each:
        return None
    if around and layout.merged(sorted(around, key=lambda a: -a.stride)) != [Atom(sequences, each)]:
        return None
    if not call.build.pin(view.base, width):
        return None
    leading = tuple(
        tuple(
            ("head", a.size, a.stride // size) if a in inside else ("sequence", a.size, a.stride // each) for a in dim
        )
        for dim in own
    )
    return Heads(view.base, column, count, time.size, size, sequences, leading)


def _is_head(atom: Atom, head_dim: int, width: int) -> bool:
    """Whether a step along it stays inside a row of the value."""
    return atom.stride >= head_dim and (width == 0 or atom.stride * (atom.size - 1) + head_dim <= width)


def attention(
    call: Call, query: fx.Node, key: fx.Node, value: fx.Node, scale: float | None, causal: bool, mask: Tensor | None,
    key_transposed: bool = False,
) -> OpNode | str:  # fmt: skip
    q, view = heads_of(call, query)
    k, _ = heads_of(call, key, key_transposed)
    v, _ = heads_of(call, value)
    if k.head_dim != q.head_dim or v.head_dim != q.head_dim or k.steps != v.steps or k.heads != v.heads:
        return "has keys and values of another size than its queries"
    if q.heads % k.heads:
        return "has a number of heads that the key heads do not divide"
    if not q.sequences == k.sequences == v.sequences or len({_sequences(side) for side in (q, k, v)}) > 1:
        return "has other sequences of keys and values than of queries"
    attrs: dict[str, Any] = {
        "heads": q.heads, "kv_heads": k.heads, "head_dim": q.head_dim,
        "scale": float(scale if scale is not None else q.head_dim**-0.5), "causal": int(causal),
        "q_column": q.column, "k_column": k.column, "v_column": v.column,
    }  # fmt: skip
    if q.sequences > 1:
        attrs["sequences"] = q.sequences
    tensors = {} if mask is None else {"mask": _mask(mask, q, k.steps)}
    width, each = q.heads * q.head_dim, q.steps * q.heads * q.head_dim
    dims = []
    for dim, own in zip(view.dims, q.leading):
        atoms = [Atom(size, stride * (q.head_dim if kind == "head" else each)) for kind, size, stride in own]
        dims.append((*(a for a in dim if a.batch), *atoms))
    seen = View("", (*dims, (Atom(q.steps, width),), (Atom(q.head_dim, 1),)))
    elements = q.sequences * each
    return call.op_node("attention", [q.base, k.base, v.base], seen, elements, width, tensors=tensors, attrs=attrs)


def _sequences(side: Heads) -> tuple[Any, ...]:
    """Which dimensions its sequences are, counted from the last: of queries and keys they have to be the same."""
    found = [
        (len(side.leading) - at, size, stride)
        for at, own in enumerate(side.leading)
        for kind, size, stride in own
        if kind == "sequence"
    ]
    return tuple(found)


def _mask(mask: Tensor, q: Heads, keys: int) -> Tensor:
    """A constant mask as numbers to add to the scores: [1 or heads or sequences * heads, queries, keys] as rows of keys."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device="cpu").masked_fill(~mask.cpu(), float("-inf"))
    mask = mask.float().cpu()
    if mask.dim() < 2:
        mask = mask.reshape(1, -1)
    front = mask.shape[:-2]
    if all(size == 1 for size in front):
        return mask.reshape(mask.shape[-2:]).expand(q.steps, keys).contiguous()
    lead = [prod(size for _, size, _ in own) for own in q.leading]
    strides = [stride for own in q.leading for kind, _, stride in own if kind == "sequence"]
    per_dim = len({kind for own in q.leading[-1:] for kind, _, _ in own}) <= 1  # heads are a dimension of their own
    if (
        len(front) > len(lead)
        or any(m not in (1, size) for m, size in zip(reversed(front), reversed(lead)))
        or not per_dim
    ):
        raise Refused("has a mask for each sample")
    if all(size == 1 for size in front[:-1]) and (front[-1] == q.heads or q.sequences == 1):
        return mask.reshape(-1, *mask.shape[-2:]).expand(q.heads, q.steps, keys).reshape(-1, keys).contiguous()
    if strides != sorted(strides, reverse=True):
        raise Refused("has a mask for each sequence, and they lie in another order")
    return mask.expand(*lead, q.steps, keys).reshape(-1, keys).contiguous()


@rule(aten.scaled_dot_product_attention.default)
def _fused(call: Call) -> OpNode | str:
    mask = call["attn_mask"]
    constant = None if mask is None else call.repeated(mask)
    if mask is not None and constant is None:
        return "has a mask that is computed"
    if call["dropout_p"] != 0.0:
        return "drops out"
    return attention(call, call["query"], call["key"], call["value"], call["scale"], bool(call["is_causal"]), constant)


def by_hand(call: Call) -> OpNode | str:
    """matmul(softmax(matmul(q, k^T) * scale + mask), v), as it is written out. The scores are then computed nowhere else."""
    no = "multiplies two computed tensors"
    scores, value = call["self"], call["other"]
    while isinstance(scores, fx.Node) and scores.target in (
        aten.dropout.default,
        aten.clone.default,
        aten.expand.default,
    ):
        scores = scores.args[0]
    if not isinstance(scores, fx.Node) or scores.target is not aten.softmax.int:
        return no
    soft = Call(call.build, scores)
    if soft["dim"] not in (-1, scores.meta["val"].dim() - 1) or soft["dtype"] is not None:
        return no
    scale, mask, node = 1.0, None, soft["self"]
    while isinstance(node, fx.Node) and node.target is not aten.matmul.default:
        inner = Call(call.build, node)
        if node.target is aten.add.Tensor and mask is None and inner["alpha"] == 1 and scale == 1.0:
            mask = call.constant(inner["other"])
            if mask is None:
                return no
        elif node.target is aten.masked_fill.Scalar and mask is None and scale == 1.0:
            hidden = call.constant(inner["mask"])
            if hidden is None or inner["value"] > -1e30:
                return no
            mask = torch.zeros(hidden.shape, device="cpu").masked_fill(hidden.bool().cpu(), float("-inf"))
        elif node.target in (aten.mul.Tensor, aten.div.Tensor):
            factor = call.constant(inner["other"])
            number = inner["other"] if isinstance(inner["other"], (int, float)) else None
            if factor is not None and factor.numel() == 1:
                number = float(factor)
            if number is None:
                return no
            scale *= float(number) if node.target is aten.mul.Tensor else 1.0 / float(number)
        else:
            return no
        node = inner["self"]
    if not isinstance(node, fx.Node):
        return no
    product = Call(call.build, node)
    query, key = product["self"], product["other"]
    return attention(call, query, key, value, scale, False, mask, key_transposed=True)


@rule(aten.embedding.default)
def _embedding(call: Call) -> OpNode | str:
    weight = call.constant(call["weight"])
    if weight is None:
        return "its table is computed, not a parameter"
    view = call.view(call["indices"], torch.int64)
    view = call.build.whole(view)
    if view.base not in call.build.exported.inputs:
        return "its indices are computed"  # they cannot be checked before the call
    buffer = call.build.buffers[view.base]
    if buffer.width != 1 and not _as_single(call, view.base):
        return "layout: its indices are read in another shape as well"
    width = weight.shape[1]
    dims = tuple(
        tuple(a if a.batch or a.size == 1 else Atom(a.size, a.stride * width) for a in dim) for dim in view.dims
    )
    result = View("", (*dims, (Atom(width, 1),)))
    return call.op_node(
        "embedding", [view.base], result, buffer.elements * width, width, tensors={"weight": weight.float()}
    )


def _as_single(call: Call, base: str) -> bool:
    """Makes the rows of an index input one index wide."""
    if base in call.build.exported.inputs:
        call.build.buffers[base].width = 1
        return True
    return False
