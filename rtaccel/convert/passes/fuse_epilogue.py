"""Fusing: a BatchNorm, an activation or a residual goes into the layer that feeds it, so that it costs no pass of its own.

Which of them a layer takes in, its operator's `folding` says (rtaccel.core.traits).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.convert.frontend.nodes import OpNode


def fold(op_nodes: list[OpNode], kept: set[str]) -> list[OpNode]:
    """Merges what can be merged; the value of a merged pair keeps the name of the later one.

    kept: names of values that something outside the nodes reads. One of these, or one read twice, must stay.
    """
    while _fold_one(op_nodes, kept):
        pass
    return op_nodes


def _fold_one(op_nodes: list[OpNode], kept: set[str]) -> bool:
    users: dict[str, list[OpNode]] = {}
    for op_node in op_nodes:
        for name in op_node.reads:
            users.setdefault(name, []).append(op_node)
    made = {name: op_node for op_node in op_nodes for name in op_node.writes}
    for op_node in op_nodes:
        if op_node.is_fallback:
            continue
        for index, name in enumerate(op_node.reads):
            source = made.get(name)
            if source is None or source.is_fallback or name in kept or name != source.writes[0]:
                continue
            readers = users[name]
            if len(source.writes) > _own(source):
                continue
            if len(readers) == 1 and _merge(source, op_node, index):
                op_nodes.remove(source)
                return True
            if index == 0 and _folds_forward(source) and all(_takes_affine(u, name) for u in readers):
                for user in readers:
                    _fold_forward(source, user)
                op_nodes.remove(source)
                return True
    return False


def _merge(source: OpNode, op_node: OpNode, index: int) -> bool:
    """Folds the elementwise `node` into `source`, which gives its input `index`; False where they do not merge."""
    if op_node.operator.elementwise is None or source.activation != "none":
        return False
    folding, affine = source.operator.folding, op_node.affine
    if folding is None or not folding.activation:
        return False
    if len(op_node.reads) == 2:
        # A residual. The sum has one rounding more than the layer's own, in either order.
        other = op_node.reads[1 - index]
        if (
            not folding.residual
            or not op_node.adds
            or len(source.reads) != _own(source)
            or other == op_node.reads[index]
        ):
            return False
        op_node.reads = [*source.reads, other]
    else:
        if affine is not None:
            if folding.after is None or len(source.reads) > _own(source):
                return False
            scaled = _scaled(source.tensors, *affine) if source.swapped else folding.after(source.tensors, *affine)
            if scaled is None:
                return False
            source.tensors = scaled
        op_node.reads = source.reads
    op_node.writes = [op_node.writes[0], *source.writes[1:]]
    op_node.op, op_node.tensors, op_node.attrs = source.op, source.tensors, {**source.attrs, **op_node.attrs}
    if source.operator.weights is not None:
        op_node.name, op_node.quant, op_node.float_input = source.name, source.quant, source.float_input
    return True


def _scaled(tensors: dict[str, Tensor], scale: Tensor, shift: Tensor) -> dict[str, Tensor] | None:
    """int8 weights with the same numbers, for results times `scale` plus `shift`. None for what has no scale per output: those of
    int4 groups have to stay bfloat16 numbers."""
    weight, old = tensors.get("weight"), tensors.get("weight_scale")
    if weight is None or weight.dtype != torch.int8 or old is None or old.shape != scale.shape or not scale.all():
        return None
    turned = (scale < 0).reshape(-1, *[1] * (weight.dim() - 1))
    bias = tensors.get("bias")
    bias = torch.zeros_like(old) if bias is None else bias
    made = (old.double() * scale.double().abs()).float()
    if not (made >= 2.0**-100).all():
        return None
    bias = (bias.double() * scale.double() + shift.double()).float()
    return {**tensors, "weight": torch.where(turned, -weight, weight), "weight_scale": made, "bias": bias}


def _own(op_node: OpNode) -> int:
    """Values that a node must read, and write: the states that it carries on are beside its input."""
    return 1 + len({*op_node.reads} & {*op_node.writes})


MAX_RANGE, MAX_SHIFT = 64.0, 4.0
"""Of an affine that goes into the weights behind it: how far its scales are apart, and how large its shift is, where the values
behind it are near 1. Raw sensors that are standardized are beyond both. Their scales would be in the weights before these are
quantized, and in float32 the layer would subtract large numbers from each other."""


def _folds_forward(source: OpNode) -> bool:
    """Whether a scale and shift can be part of the next layer's weights without loss of precision."""
    if not source.affine_only:
        return False
    affine = source.affine
    assert affine is not None
    sizes, shift = affine[0].abs(), affine[1].abs()
    return not sizes.numel() or bool(sizes.amax() <= MAX_RANGE * sizes.amin() and shift.amax() <= MAX_SHIFT)


def _takes_affine(user: OpNode, name: str) -> bool:
    if user.is_fallback or user.swapped or user.reads != [name]:
        return False
    return user.operator.folding is not None and user.operator.folding.before is not None


def _fold_forward(source: OpNode, user: OpNode) -> None:
    folding, affine = user.operator.folding, source.affine
    assert folding is not None and folding.before is not None and affine is not None
    user.tensors = folding.before(user.tensors, *affine)
    user.reads = list(source.reads)
