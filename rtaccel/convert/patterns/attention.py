"""Rules for attention as torch's fused call, and for embedding lookups; written_attention.py has that which is written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.graph.values import sizes
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, rule

REGROUPED = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


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

    @property
    def order(self) -> tuple[Atom, ...]:
        """How its sequences lie, in the order of the dimensions: of queries and keys it has to be the same."""
        runs = [Atom(size, stride) for own in self.leading for kind, size, stride in own if kind == "sequence"]
        return tuple(layout.merged(runs))


def heads_of(call: Call, node: fx.Node, transposed: bool = False, packed: bool = False) -> tuple[Heads, View]:
    """Where the heads of a tensor lie; packs them where they lie otherwise, or where that is asked for. transposed: keys as
    [.., head_dim, steps]."""
    view = call.view(node)
    if transposed:
        view = layout.permute(view, [*range(len(view.dims) - 2), len(view.dims) - 1, len(view.dims) - 2])
    rank = len(view.dims)
    if rank < 3 or view.has_batch(rank - 2) or view.has_batch(rank - 1):
        raise Refused("has samples for its steps or columns")  # every sample meets every other
    found = None if packed else _heads(call, view)
    if found is None:
        order = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
        turned = layout.permute(view, order)
        width = view.shape[-1] * (1 if view.has_batch(rank - 3) else view.shape[-3])
        view = layout.permute(call.build.packed(turned, width=width), order)
        found = _heads(call, view)
    if found is None:
        raise Refused("layout: its heads are no columns of a value")
    return found, view


def _heads(call: Call, view: View) -> Heads | None:
    rank = len(view.dims)
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
    if width < 1:  # every step is the same one
        return None
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


def _kinds(heads: Heads, view: View) -> list[str]:
    """What its leading dimensions go through, the outermost first: samples, sequences, heads. Joined ones may lie either way."""
    found: list[str] = []
    for dim, own in zip(view.dims, heads.leading):
        kinds = iter(kind for kind, _, _ in own)
        found += ["sample" if a.batch else next(kinds) for a in dim if a.batch or a.size > 1]
    return found


def _same_order(first: list[str], second: list[str]) -> bool:
    both = {*first} & {*second}
    a, b = ([kind for kind, _ in groupby(k for k in kinds if k in both)] for kinds in (first, second))
    return a == b


def _meets(queries: View, other: View) -> bool:
    """Whether keys or values have their samples where queries do, in the dimensions in front of the last two."""
    pairs = list(zip(reversed(queries.dims), reversed(other.dims[:-2])))
    beyond = [*queries.dims[: -len(pairs) or None], *other.dims[: len(other.dims) - 2 - len(pairs)]]
    if any(a.batch for dim in beyond for a in dim):
        return False
    alike = all(any(a.batch for a in own) == any(a.batch for a in dim) for own, dim in pairs)
    same = [(own, dim) for own, dim in pairs if prod(a.size for a in own) == prod(a.size for a in dim)]
    return alike and all(layout.same_samples([own], [dim]) for own, dim in same)


def _is_head(atom: Atom, head_dim: int, width: int) -> bool:
    """Whether a step along it stays inside a row of the value."""
    return atom.stride >= head_dim and (width == 0 or atom.stride * (atom.size - 1) + head_dim <= width)


@dataclass(frozen=True)
class Mask:
    """A constant that is added to the scores, where those have these leading dimensions."""

    added: Tensor
    leading: tuple[int, ...]

    @classmethod
    def of(cls, mask: Tensor, scores: fx.Node, leading: tuple[int, ...] | None = None) -> Mask:
        """In its broadcast place in front of scores [.., queries, keys]; truth values rule out where they are false. leading: of
        the scores, where their first dimension joins samples and others."""
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device="cpu").masked_fill(~mask.cpu(), float("-inf"))
        return cls(torch.atleast_2d(mask.detach().float().cpu()), leading or sizes(scores.meta["val"])[:-2])


def attention(
    call: Call, query: fx.Node, key: fx.Node, value: fx.Node, scale: float | None, causal: bool, masks: Sequence[Mask],
    key_transposed: bool = False, leading: Sequence[int] | None = None,
) -> OpNode | str:  # fmt: skip
    """leading: of the weights in front of the last two dimensions, where they are seen in another shape than the scores."""
    given = ((query, False), (key, key_transposed), (value, False))
    (q, view), (k, keys), (v, other) = found = [heads_of(call, *tensor) for tensor in given]
    if len({(heads.sequences, heads.order) for heads, _ in found}) > 1:  # one has its heads one after the other
        (q, view), (k, keys), (v, other) = (
            heads_of(call, *tensor, packed=True) if own[0].sequences > 1 else own for tensor, own in zip(given, found)
        )
    seen = View(view.base, view.dims[:-2])
    weights = seen if leading is None else layout.reshape(seen, leading)
    if weights is None or not (_meets(seen, keys) and _meets(weights, other)):
        return "layout: has keys and values whose samples are other dimensions than those of its queries"
    kinds = _kinds(q, view)
    if not (_same_order(kinds, _kinds(k, keys)) and _same_order(kinds, _kinds(v, other))):
        return "layout: has keys and values whose samples and heads lie in another order than those of its queries"
    if k.head_dim != q.head_dim or v.head_dim != q.head_dim or k.steps != v.steps or k.heads != v.heads:
        return "has keys and values of another size than its queries"
    if q.heads % k.heads:
        return "has a number of heads that the key heads do not divide"
    if not q.sequences == k.sequences == v.sequences or len({q.order, k.order, v.order}) > 1:
        return "has other sequences of keys and values than of queries"
    attrs: dict[str, Any] = {
        "heads": q.heads, "kv_heads": k.heads, "head_dim": q.head_dim,
        "scale": float(scale if scale is not None else q.head_dim**-0.5), "causal": int(causal),
        "q_column": q.column, "k_column": k.column, "v_column": v.column,
    }  # fmt: skip
    if q.sequences > 1:
        attrs["sequences"] = q.sequences
    tensors = {"mask": _added(masks, q, view, k.steps)} if masks else {}
    width, each = q.heads * q.head_dim, q.steps * q.heads * q.head_dim
    side = v if v.heads == q.heads else q  # scores may have been seen in another shape than that of their queries
    dims = []
    for dim, own in zip((other if side is v else view).dims, side.leading):
        atoms = iter([Atom(size, stride * (q.head_dim if kind == "head" else each)) for kind, size, stride in own])
        dims.append(tuple(a if a.batch else next(atoms) for a in dim if a.batch or a.size > 1))
    seen = View("", (*dims, (Atom(q.steps, width),), (Atom(q.head_dim, 1),)))
    elements = q.sequences * each
    return call.op_node("attention", [q.base, k.base, v.base], seen, elements, width, tensors=tensors, attrs=attrs)


def _added(masks: Sequence[Mask], q: Heads, view: View, keys: int) -> Tensor:
    """The sum of masks as rows of keys: for all queries, those of each head, or those of each head of each sequence."""
    if all(all(size == 1 for size in m.added.shape[:-2]) for m in masks):
        total = sum((m.added.reshape(m.added.shape[-2:]) for m in masks), torch.zeros(()))
        return total.expand(q.steps, keys).contiguous()
    places = _places(q, view)
    if len(places.unique()) != len(places):
        raise Refused("layout: reads queries several times")
    total = torch.zeros(())
    for m in masks:
        front = m.added.shape[:-2]
        lead = [1] * (len(m.leading) - len(front)) + list(front)
        if len(front) > len(m.leading) or any(all_of % size for size, all_of in zip(lead, m.leading)):
            raise Refused("has a mask of more dimensions than its scores")
        if prod(m.leading) != len(places):
            raise Refused("layout: has scores whose samples and heads lie otherwise than those of its queries")
        full = m.added.reshape(*lead, *m.added.shape[-2:])
        full = full.repeat(*(all_of // size for size, all_of in zip(lead, m.leading)), 1, 1)
        full = full.expand(*m.leading, q.steps, keys).reshape(-1, q.steps, keys)
        turned = torch.empty_like(full)
        turned[places] = full
        turned = turned.view(-1, q.sequences, q.heads, q.steps, keys)
        if not bool((turned == turned[:1]).all()):
            raise Refused("has a mask for each sample")
        total = total + turned[0]
    return (total[0] if bool((total == total[:1]).all()) else total).reshape(-1, keys).contiguous()


def _places(q: Heads, view: View) -> Tensor:
    """Of each matrix of scores, in the order of the leading dimensions: which head of which sequence of which sample it is."""
    found = torch.zeros((), dtype=torch.int64)
    for dim, own in zip(view.dims, q.leading):
        runs = iter(own)
        for a in dim:
            if a.batch:
                size, step = a.size, q.sequences * q.heads
            elif a.size > 1:
                kind, size, stride = next(runs)
                step = stride * (q.heads if kind == "sequence" else 1)
            else:
                continue
            found = found.unsqueeze(-1) + step * torch.arange(size)
    return found.reshape(-1)


@rule(aten.scaled_dot_product_attention.default)
def _fused(call: Call) -> OpNode | str:
    mask = call["attn_mask"]
    constant = None if mask is None else call.repeated(mask)
    if mask is not None and constant is None:
        return "has a mask that is computed"
    if call["dropout_p"] != 0.0:
        return "drops out"
    masks = [] if constant is None else [Mask.of(constant, call.node)]
    return attention(call, call["query"], call["key"], call["value"], call["scale"], bool(call["is_causal"]), masks)


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
