"""Branches of one input whose results are added are one layer: the sum of their weights.

So are trained the blocks of RepVGG and MobileOne: convolutions of several sizes, and the input itself behind a BatchNorm. How a layer
takes in another, its operator's `folding` says (rtaccel.core.traits).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rtaccel.convert.frontend.nodes import OpNode


def join_branches(op_nodes: list[OpNode], kept: set[str]) -> list[OpNode]:
    """Layers take in what they add of other layers of the same input. kept: names of values that something outside reads; they stay."""
    while _join_one(op_nodes, kept, inputs=False):
        pass
    return op_nodes


def join_inputs(op_nodes: tuple[OpNode, ...], kept: set[str]) -> tuple[OpNode, ...]:
    """Layers take in what they add of their own input, scaled and shifted or as it is.

    It then has a weight near 1 among those of the layer. Quantized they would share one scale, and lose what the smaller ones
    hold: so this is for float32 alone.
    """
    made = [OpNode(**{**vars(op_node), "reads": list(op_node.reads)}) for op_node in op_nodes]
    while _join_one(made, kept, inputs=True):
        pass
    return tuple(made)


def _join_one(op_nodes: list[OpNode], kept: set[str], inputs: bool) -> bool:
    made = {name: op_node for op_node in op_nodes for name in op_node.writes}
    uses: dict[str, int] = {}
    for op_node in op_nodes:
        for name in op_node.reads:
            uses[name] = uses.get(name, 0) + 1
    alone = {name for name, count in uses.items() if count == 1} - kept
    for op_node in op_nodes:
        if op_node.is_fallback or op_node.operator.folding is None or not op_node.operator.folding.residual:
            continue
        if len(op_node.reads) != 2 or len(op_node.writes) != 1 or op_node.swapped:
            continue
        for user, at in _addends(op_node, made, alone):
            name = user.reads[at]
            if not (_take_in_input(op_node, name, made) if inputs else _take_in(op_node, name, made, alone)):
                continue
            source = made.get(name)
            if source is not None and name in alone:
                op_nodes.remove(source)
            if source is not None and not inputs and len(source.reads) == 2:  # what it added itself is left
                user.reads[at] = source.reads[1]
            else:
                _drop(user, at, op_nodes)
            return True
    return False


def _addends(op_node: OpNode, made: dict[str, OpNode], alone: set[str]) -> Iterator[tuple[OpNode, int]]:
    """What is added to the result of a layer: who reads it, and as which of its inputs."""
    waiting = [(op_node, 1)]
    while waiting:
        user, at = waiting.pop()
        yield user, at
        source = made.get(user.reads[at])
        if source is not None and user.reads[at] in alone and source.adds and source.activation == "none":
            if len(source.writes) == 1 and source.reads[0] != source.reads[1]:
                waiting += [(source, 0), (source, 1)]


def _take_in(op_node: OpNode, name: str, made: dict[str, OpNode], alone: set[str]) -> bool:
    source, folding = made.get(name), op_node.operator.folding
    if source is None or name not in alone or source.is_fallback or source.operator.weights is None:
        return False
    if source.reads[0] != op_node.reads[0] or len(source.reads) > 2 or len(source.writes) != 1:
        return False
    if source.activation != "none" or source.swapped:
        return False
    joined = folding.join(source, op_node) if folding is not None and folding.join is not None else None
    if joined is None:
        return False
    op_node.tensors, op_node.attrs = joined
    return True


def _take_in_input(op_node: OpNode, name: str, made: dict[str, OpNode]) -> bool:
    affine, folding = _of_input(name, op_node, made), op_node.operator.folding
    if affine is None or folding is None or folding.skip is None:
        return False
    tensors = folding.skip(op_node.tensors, op_node.attrs, *affine)
    if tensors is None:
        return False
    op_node.tensors = tensors
    return True


def _of_input(name: str, op_node: OpNode, made: dict[str, OpNode]) -> tuple[Tensor, Tensor] | None:
    """The scale and shift for each column by which a value is the layer's input; None where it is something else."""
    x, source = op_node.reads[0], made.get(name)
    if name == x:
        bias = op_node.tensors["bias"]
        return torch.ones_like(bias), torch.zeros_like(bias)
    if source is None or not source.affine_only or source.reads != [x]:
        return None
    return source.affine


def _drop(user: OpNode, at: int, op_nodes: list[OpNode]) -> None:
    """One addend less: the sum that read it is its other addend."""
    other = user.reads[1 - at]
    if not user.adds:
        del user.reads[at]
        return
    reader = next(d for d in op_nodes if user.writes[0] in d.reads)
    reader.reads = [other if name == user.writes[0] else name for name in reader.reads]
    op_nodes.remove(user)
