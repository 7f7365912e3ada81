"""Models in half precision, computed in float32: float16 and bfloat16 weights as they are, and no rounding between layers.

float32 holds every number of both, so the result is nearer to that of exact arithmetic than the model's own. The caller's tensors
keep their dtype: inputs are cast where they come in, and results where they go out. So do float32 models with parts in
`torch.autocast`: what computes in half precision there computes in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rtaccel.convert.aten import aten

HALVES = (torch.float16, torch.bfloat16)
_BITS = (aten.view.dtype, aten.nextafter.default)
"""Calls that mean the bits of a number, or their spacing: they are others in float32."""
_CASTS = (aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
_WIDENING: dict[Any, int] = {aten._softmax.default: 2, aten._log_softmax.default: 2}
"""Call -> the argument that says that it gives float32 of a half."""


def in_float32(graph: fx.Graph, constants: dict[str, Tensor], inputs: Collection[str]) -> tuple[torch.dtype, ...]:
    """Rewrites the graph and the constants in place. Gives the half dtypes that parameters, buffers and inputs had, or those that
    calls compute in; () where there are none, or where a call means the bits of its numbers, and then nothing is changed.

    Casts to a half and back inside a float32 model stay what they are: there they round on purpose.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    packed = {node for node in placeholders if _is_packed(node)}
    given = [node for node in placeholders if node not in packed]
    found = {d for node in given for d in (_dtype(node),) if d in HALVES}
    calls = [node for node in graph.nodes if node.op == "call_function"]
    rounding: set[fx.Node] = set()
    if not found:
        found = {d for node in calls for d in (_dtype(node),) if d in HALVES and node.target not in _CASTS}
        rounding = _round_trips(graph, calls) if found else rounding
    if not found or any((node.target in _BITS or _is_custom(node)) and _is_half(node) for node in calls):
        return ()
    output = next(node for node in graph.nodes if node.op == "output")
    kept = {node: dtype for node in output.all_input_nodes if (dtype := _dtype(node)) in HALVES}
    behind = next((node for node in graph.nodes if node.op != "placeholder"), output)
    cast: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(behind):
        for node in given:
            if node.name in inputs and _dtype(node) in HALVES:
                cast[node] = _cast(graph, node, torch.float32)
    for node, wide in cast.items():
        for reader in [user for user in node.users if user not in (wide, output)]:
            reader.replace_input_with(node, wide)
    for node in graph.nodes:
        if node in cast or node in packed or node in rounding:
            continue
        _widen(node)
        if node.op == "placeholder" and node.name in constants and constants[node.name].dtype in HALVES:
            constants[node.name] = constants[node.name].float()
    with graph.inserting_before(output):
        narrowed = {node: _cast(graph, node, dtype) for node, dtype in kept.items() if node not in cast}
    output.args = pytree.tree_map(lambda n: narrowed.get(n, n) if isinstance(n, fx.Node) else n, output.args)
    return tuple(sorted(found, key=str))


def _round_trips(graph: fx.Graph, calls: Sequence[fx.Node]) -> set[fx.Node]:
    """Casts to a half that are cast back, with a node of their own where other calls compute with the half."""
    found = set()
    for node in calls:
        if node.target not in _CASTS or _dtype(node) not in HALVES or _dtype(node.all_input_nodes[0]) in HALVES:
            continue
        back = [u for u in node.users if u.target in _CASTS and u.args[0] is node and _dtype(u) not in HALVES]
        if not back:
            continue
        own = node
        if len(back) < len(node.users):
            with graph.inserting_after(node):
                own = graph.node_copy(node)
            for user in back:
                user.replace_input_with(node, own)
        found.add(own)
    return found


def _dtype(node: fx.Node) -> torch.dtype | None:
    made = node.meta.get("val")
    return made.dtype if isinstance(made, Tensor) else None


def _is_packed(node: fx.Node) -> bool:
    """Whether a tensor is for custom operators alone, such as the weights of a layer that was swapped: they say its dtype."""
    return bool(node.users) and all(_is_custom(user) for user in node.users)


def _is_custom(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in ("aten", "prims", "prim")


def _is_half(node: fx.Node) -> bool:
    """Whether a call reads or gives a half."""
    return any(_dtype(n) in HALVES for n in (node, *node.all_input_nodes))


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    made = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    made.meta = {**node.meta, "val": _like(node.meta["val"], dtype)}
    return made


def _widen(node: fx.Node) -> None:
    """One call as it is in float32: the dtypes that it names, and what it gives."""

    def word(value: Any) -> Any:
        return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value

    if node.op == "call_function":
        node.args = pytree.tree_map(word, node.args)
        node.kwargs = pytree.tree_map(word, node.kwargs)
        flag = _WIDENING.get(node.target)
        if flag is not None and len(node.args) > flag:
            node.args = (*node.args[:flag], False, *node.args[flag + 1 :])
    if "val" in node.meta:
        node.meta["val"] = pytree.tree_map(
            lambda v: _like(v, torch.float32) if isinstance(v, Tensor) and v.dtype in HALVES else v, node.meta["val"]
        )


def _like(made: Tensor, dtype: torch.dtype) -> Tensor:
    """What a node gives, in another dtype and with the same strides."""
    with made.fake_mode:  # type: ignore[attr-defined]
        return torch.empty_strided(made.shape, made.stride(), dtype=dtype, device=made.device)
