"""Branches of one input whose results are added are one layer: the sum of their weights.

So are trained the blocks of RepVGG and MobileOne: convolutions of several sizes, and the input itself behind a BatchNorm.
How a layer takes in another, its operator's `folding` says (rtaccel.core.traits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.core.scheme import W8A8, W8A16, Float32, Scheme, SchemeMap


def join_branches(op_nodes: list[OpNode], kept: set[str]) -> list[OpNode]:
    """Layers of one input whose results are added become one. kept: names of values that something outside reads; they stay."""
    return _until_none(op_nodes, kept, _take_in_layer)


MAX_ROUNDING = 0.01
"""Of an output, relative to it: what int8 weights may lose by their rounding where a layer takes in its input."""


def join_inputs(op_nodes: tuple[OpNode, ...], kept: set[str], scheme: SchemeMap) -> list[OpNode]:
    """Layers take in what is added of their own input, scaled and shifted or as it is.

    It then has a weight near 1 among those of the layer. In int8 they share one scale: there a layer is joined only where that
    leaves enough of the smaller ones. In int4 and 8-bit floats it is not.
    """
    own = [replace(op_node, reads=list(op_node.reads), writes=list(op_node.writes)) for op_node in op_nodes]
    return _until_none(own, kept, partial(_take_in_input, scheme))


def joined_elsewhere(op_nodes: Sequence[OpNode], scheme: SchemeMap) -> Iterator[str]:
    """A note for each layer that is part of another, where it was to have a scheme of its own."""
    for layer in op_nodes:
        own = scheme(layer.name)
        for name in layer.joined:
            if scheme(name) != own:
                yield f"{name} is computed as {own}, not {scheme(name)}: it is part of {layer.name}, which reads the same input"


TakeIn = Callable[[OpNode, str, OpNode | None, bool], bool]
"""(layer, name of another addend, what makes it, whether that is read once) -> whether the layer gives the sum now."""


def _until_none(op_nodes: list[OpNode], kept: set[str], take_in: TakeIn) -> list[OpNode]:
    while _join_one(op_nodes, kept, take_in):
        pass
    return op_nodes


def _join_one(op_nodes: list[OpNode], kept: set[str], take_in: TakeIn) -> bool:
    made = {name: op_node for op_node in op_nodes for name in op_node.writes}
    uses = Counter(name for op_node in op_nodes for name in op_node.reads)
    alone = {name for name, count in uses.items() if count == 1} - kept
    for root in op_nodes:
        if root.is_fallback or not (root.adds or _adds_to_itself(root)):
            continue
        addends = list(_addends(root, made, alone))
        layers = [made[user.reads[at]] for user, at in addends if user.reads[at] in alone & made.keys()]
        for layer in [root, *layers] if not root.adds else layers:
            if not _is_layer(layer) or (layer is not root and layer.activation != "none"):
                continue
            for user, at in addends:
                name = user.reads[at]
                source = made.get(name)
                if source is layer or not take_in(layer, name, source, name in alone):
                    continue
                gone = source if name in alone else None
                if gone is not None:
                    op_nodes.remove(gone)
                if gone is not None and _adds_to_itself(gone):
                    user.reads[at] = gone.reads[1]
                else:
                    _drop(user, at, op_nodes, made, alone)
                return True
    return False


def _is_layer(op_node: OpNode) -> bool:
    if op_node.is_fallback or op_node.operator.folding is None or op_node.operator.folding.join is None:
        return False
    return len(op_node.writes) == 1 and not op_node.swapped and (len(op_node.reads) == 1 or _adds_to_itself(op_node))


def _adds_to_itself(op_node: OpNode) -> bool:
    """Whether it is a layer that adds one more value to its result."""
    folding = None if op_node.is_fallback else op_node.operator.folding
    return folding is not None and folding.residual and len(op_node.reads) == 2 and len(op_node.writes) == 1


def _addends(root: OpNode, made: dict[str, OpNode], alone: set[str]) -> Iterator[tuple[OpNode, int]]:
    """The values of a sum: who reads each, and as which of its inputs. Of a layer, what it adds to its own result."""
    waiting = [(root, 0), (root, 1)] if root.adds else [(root, 1)]
    while waiting:
        user, at = waiting.pop()
        source = made.get(user.reads[at]) if user.reads[at] in alone else None
        if source is not None and source.adds and source.activation == "none" and len(source.writes) == 1:
            waiting += [(source, 0), (source, 1)]
        else:
            yield user, at


def _take_in_layer(layer: OpNode, name: str, source: OpNode | None, alone: bool) -> bool:
    folding = layer.operator.folding
    if source is None or not alone or not _is_layer(source) or source.activation != "none":
        return False
    if folding is None or folding.join is None or source.reads[0] != layer.reads[0]:
        return False
    joined = folding.join(source, layer)
    if joined is None:
        return False
    layer.tensors, layer.attrs = joined
    layer.joined += (source.name, *source.joined)
    return True


def _take_in_input(scheme: SchemeMap, layer: OpNode, name: str, source: OpNode | None, alone: bool) -> bool:
    folding, x = layer.operator.folding, layer.reads[0]
    if folding is None or folding.skip is None:
        return False
    if name == x:
        bias = layer.tensors["bias"]
        affine = torch.ones_like(bias), torch.zeros_like(bias)
    elif source is not None and source.affine_only and source.reads == [x] and source.affine is not None:
        affine = source.affine
    else:
        return False
    tensors = folding.skip(layer.tensors, layer.attrs, *affine)
    if tensors is None:
        return False
    if not _stays_exact(scheme(layer.name), layer.tensors["weight"], tensors["weight"]):
        return False
    layer.tensors = tensors
    return True


def _stays_exact(scheme: Scheme, before: Tensor, after: Tensor) -> bool:
    """Whether a layer's weights lose little more by their rounding than they did."""
    if isinstance(scheme, Float32):
        return True
    return isinstance(scheme, W8A8 | W8A16) and _rounding(after) <= max(MAX_ROUNDING, _rounding(before))


def _rounding(weight: Tensor) -> float:
    """What int8 rounding of the weights adds to an output of independent inputs, relative to it; of the worst output."""
    rows = weight.double().flatten(1)
    step, size = rows.abs().amax(1) / 127, rows.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    return float((step * (rows.shape[1] / 12) ** 0.5 / size).amax()) if rows.numel() else 0.0


def _drop(user: OpNode, at: int, op_nodes: list[OpNode], made: dict[str, OpNode], alone: set[str]) -> None:
    """One addend less: a sum of two is its other addend, under its own name where it is not part of a larger sum."""
    del user.reads[at]
    if _is_layer(user) or user.activation != "none":
        return
    left, result = user.reads[0], user.writes[0]
    op_nodes.remove(user)
    if result not in alone:
        made[left].writes = user.writes
        return
    reader = next(d for d in op_nodes if result in d.reads)
    reader.reads = [left if name == result else name for name in reader.reads]
