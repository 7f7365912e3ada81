"""Numbers that Python reads of a tensor with `.item()`, and computes with: here they stay tensors of one number.

So a limit that depends on the loudest part of a spectrogram is computed beside it, and no call waits for Python.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.graph.open_shapes import open_shapes

_READS = (aten.item.default, aten._local_scalar_dense.default)
_ON_NUMBERS: dict[Any, Any] = {
    operator.add: aten.add.Tensor, operator.sub: aten.sub.Tensor, operator.mul: aten.mul.Tensor,
    operator.truediv: aten.div.Tensor, operator.neg: aten.neg.default, abs: aten.abs.default,
}  # fmt: skip
_WITH_TENSORS: dict[Any, Any] = {
    **{target: target for target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)},
    aten.add.Scalar: aten.add.Tensor, aten.sub.Scalar: aten.sub.Tensor, aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
}  # fmt: skip
_LOW, _HIGH = (aten.maximum.default, aten.clamp_min.default), (aten.minimum.default, aten.clamp_max.default)
_LIMITS: dict[Any, tuple[tuple[Any, Any], ...]] = {
    aten.clamp.default: (_LOW, _HIGH), aten.clamp_min.default: (_LOW,), aten.clamp_max.default: (_HIGH,),
}  # fmt: skip
"""For each limit after the tensor: what keeps to it as a tensor, and as a number."""
_KNOWN = {*_ON_NUMBERS, *_WITH_TENSORS, *_LIMITS}


def keep_as_tensors(graph: fx.Graph) -> None:
    """Edits the numbers of float32 tensors, whose readers all compute with them in ways that are known; others stay."""
    read = {node for node in graph.nodes if _is_read(node)}
    while read:
        readers, unknown = _readers(graph, read)
        if not unknown:
            _edit(graph, [node for node in graph.nodes if node in read], readers)
            return
        read -= unknown


def _is_read(node: fx.Node) -> bool:
    source = node.args[0] if node.target in _READS else None
    made = source.meta.get("val") if isinstance(source, fx.Node) else None
    return isinstance(made, Tensor) and made.dtype == torch.float32 and detect_fake_mode(made) is not None


def _readers(graph: fx.Graph, read: set[fx.Node]) -> tuple[list[fx.Node], set[fx.Node]]:
    """All calls that compute with these numbers, in order; and those of the numbers that a call reads which is not known."""
    of = {node: {node} for node in read}  # number -> the reads that it is made of
    found: list[fx.Node] = []
    unknown: set[fx.Node] = set()
    for one in graph.nodes:
        origins = set[fx.Node]().union(*(of[n] for n in one.all_input_nodes if n in of))
        if not origins or one in read:
            continue
        known = not one.kwargs and one.target in _KNOWN
        if not known or (one.target not in _ON_NUMBERS and one.args[0] in of):
            unknown |= origins
        elif one.target in _ON_NUMBERS:
            of[one] = origins
        found.append(one)
    return found, unknown


def _edit(graph: fx.Graph, read: list[fx.Node], readers: list[fx.Node]) -> None:
    tensors: dict[fx.Node, fx.Node] = {}
    for node in read:
        with graph.inserting_before(node):
            tensors[node] = _call(graph, aten.reshape.default, node.args[0], [])
    for one in readers:
        args = [tensors.get(a, a) if isinstance(a, fx.Node) else a for a in one.args]
        with graph.inserting_before(one):
            if one.target in _LIMITS:
                made: Any = args[0]
                for limit, (by_tensor, by_number) in zip(args[1:], _LIMITS[one.target]):
                    if limit is not None:
                        made = _call(graph, by_tensor if isinstance(limit, fx.Node) else by_number, made, limit)
            elif one.target in _ON_NUMBERS and not isinstance(args[0], fx.Node):
                made = _turned(graph, one.target, *args)
            else:
                made = _call(graph, _ON_NUMBERS.get(one.target) or _WITH_TENSORS[one.target], *args)
        if one.target in _ON_NUMBERS:
            tensors[one] = made
        else:
            one.replace_all_uses_with(made)
    for one in reversed([*read, *readers]):
        if not one.users:
            graph.erase_node(one)


def _turned(graph: fx.Graph, target: Any, number: Any, tensor: Any) -> fx.Node:
    """Of a number before a tensor."""
    if target is operator.sub:
        return _call(graph, aten.rsub.Scalar, tensor, number)
    if target is operator.truediv:
        return _call(graph, aten.mul.Tensor, _call(graph, aten.reciprocal.default, tensor), number)
    return _call(graph, _ON_NUMBERS[target], tensor, number)


def _call(graph: fx.Graph, target: Callable[..., Any], *args: Any) -> fx.Node:
    """A new call, with what torch knows of its result."""
    made = graph.call_function(target, args)
    given = fx.map_arg(args, lambda n: n.meta["val"])
    with open_shapes(given):
        made.meta["val"] = target(*given)
    return made
