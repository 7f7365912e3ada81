"""Fusing: a BatchNorm, an activation or a residual goes into the layer that feeds it, so that it costs no pass of its own."""

from __future__ import annotations

from rtaccel.convert.frontend.nodes import Draft

_WEIGHTED = ("linear", "conv")


def fold(drafts: list[Draft], kept: set[str]) -> list[Draft]:
    """Merges what can be merged; the value of a merged pair keeps the name of the later one.

    kept: names of values that something outside the drafts reads. One of these, or one read twice, must stay.
    """
    while _fold_one(drafts, kept):
        pass
    return drafts


def _fold_one(drafts: list[Draft], kept: set[str]) -> bool:
    users: dict[str, list[Draft]] = {}
    for draft in drafts:
        for name in draft.reads:
            users.setdefault(name, []).append(draft)
    made = {name: draft for draft in drafts for name in draft.writes}
    for draft in drafts:
        if draft.op == "torch":
            continue
        for index, name in enumerate(draft.reads):
            source = made.get(name)
            if source is None or source.op == "torch" or name in kept or name != source.writes[0]:
                continue
            readers = users[name]
            if len(source.writes) > _own(source):
                continue
            if len(readers) == 1 and _merge(source, draft, index):
                drafts.remove(source)
                return True
            if index == 0 and source.affine_only and all(_takes_affine(u, name) for u in readers):
                for user in readers:
                    _fold_forward(source, user)
                drafts.remove(source)
                return True
    return False


def _merge(source: Draft, draft: Draft, index: int) -> bool:
    """Folds the pointwise `draft` into `source`, which gives its input `index`; False where they do not merge."""
    if draft.op != "pointwise" or source.activation != "none":
        return False
    if len(draft.reads) == 2:
        # A residual. The sum has one rounding more than the convolution's own, in either order.
        if (
            source.op != "conv"
            or draft.attrs.get("join", "add") != "add"
            or len(source.reads) != _own(source)
            or "scale" in draft.tensors
            or draft.reads[0] == draft.reads[1]
        ):
            return False
        draft.reads = [*source.reads, draft.reads[1 - index]]
    elif source.op in _WEIGHTED and not (source.swapped and "scale" in draft.tensors):
        if len(source.reads) > _own(source) and "scale" in draft.tensors:
            return False
        if "scale" in draft.tensors:  # computed in float64: folding should cost no precision
            scale, shift = draft.tensors["scale"].double(), draft.tensors["shift"].double()
            weight = source.tensors["weight"].double()
            source.tensors["weight"] = (weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))).float()
            source.tensors["bias"] = (source.tensors["bias"].double() * scale + shift).float()
        draft.reads = source.reads
    elif source.op == "pointwise" and "scale" not in draft.tensors:
        draft.reads = source.reads
    else:
        return False
    draft.writes = [draft.writes[0], *source.writes[1:]]
    draft.op, draft.tensors, draft.attrs = source.op, source.tensors, {**source.attrs, **draft.attrs}
    if source.op in _WEIGHTED:
        draft.name, draft.quant, draft.float_input = source.name, source.quant, source.float_input
    return True


def _own(draft: Draft) -> int:
    """Values that a draft must read, and write: a convolution that is streamed has its ring beside its input."""
    return 2 if draft.op == "conv" and draft.attrs.get("stream") else 1


def _takes_affine(user: Draft, name: str) -> bool:
    return user.op == "linear" and not user.swapped and user.reads == [name]


def _fold_forward(affine: Draft, linear: Draft) -> None:
    """linear(x * scale + shift) = (W * scale) x + (bias + W shift)."""
    weight = linear.tensors["weight"].double()
    scale, shift = affine.tensors["scale"].double(), affine.tensors["shift"].double()
    linear.tensors["bias"] = (linear.tensors["bias"].double() + weight @ shift).float()
    linear.tensors["weight"] = (weight * scale).float()
    linear.reads = list(affine.reads)
