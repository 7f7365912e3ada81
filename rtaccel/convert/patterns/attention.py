"""Rules for attention (torch's fused call, and the products and softmax written out) and for embedding lookups."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Queries, keys or values [.., heads, steps, head_dim] in packed columns of a value."""

    base: str
    column: int
    heads: int
    steps: int
    head_dim: int


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
    for index in range(rank - 3):
        if not view.has_batch(index) and view.shape[index] != 1:
            return None
    head_atoms = [a for a in view.dims[rank - 3] if not a.batch]  # samples and heads may be one dimension
    time, depth = layout.run_of(view, rank - 2), layout.run_of(view, rank - 1)
    heads = layout.merged(head_atoms)
    if time is None or depth is None or len(heads) > 1 or (depth.size > 1 and depth.stride != 1):
        return None
    size = depth.size
    if heads and heads[0].stride != size:
        return None
    buffer = call.build.buffers[view.base]
    count = heads[0].size if heads else 1
    width = buffer.width or (time.stride if time.size > 1 else buffer.elements)
    column = view.offset % width
    fits = time.size == 1 or time.stride == width
    if not fits or column + count * size > width or view.offset != column or buffer.elements != time.size * width:
        return None
    return Heads(view.base, column, count, time.size, size) if call.build.pin(view.base, width) else None


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
    attrs: dict[str, Any] = {
        "heads": q.heads, "kv_heads": k.heads, "head_dim": q.head_dim,
        "scale": float(scale if scale is not None else q.head_dim**-0.5), "causal": int(causal),
        "q_column": q.column, "k_column": k.column, "v_column": v.column,
    }  # fmt: skip
    tensors = {} if mask is None else {"mask": _mask(mask, q.steps, k.steps)}
    width = q.heads * q.head_dim
    rank = len(view.dims)
    batch = [a for a in view.dims[rank - 3] if a.batch]
    dims = [*view.dims[: rank - 3]]
    dims = [tuple(a if a.batch else Atom(1, 1) for a in dim) for dim in dims]
    dims.append((*batch, Atom(q.heads, q.head_dim)))
    dims += [(Atom(q.steps, width),), (Atom(q.head_dim, 1),)]
    elements = q.steps * width
    return call.op_node(
        "attention", [q.base, k.base, v.base], View("", tuple(dims)), elements, width, tensors=tensors, attrs=attrs
    )


def _mask(mask: Tensor, queries: int, keys: int) -> Tensor:
    """A constant mask as numbers to add to the scores, [queries, keys]."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device="cpu").masked_fill(~mask.cpu(), float("-inf"))
    mask = mask.float().cpu()
    if any(size != 1 for size in mask.shape[:-2]):
        raise Refused("has a mask for each sample or head")
    return mask.reshape(mask.shape[-2:]).expand(queries, keys).contiguous()


@rule(aten.scaled_dot_product_attention.default)
def _fused(call: Call) -> OpNode | str:
    mask = call["attn_mask"]
    constant = None if mask is None else call.constant(mask)
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
