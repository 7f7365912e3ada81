"""Calls whose result is as large as their numbers say, `nonzero` or `repeat_interleave`, of numbers that no input changes.

torch.export gives each of them a size that is unknown, and code that needs it cannot be traced. Their results are constants.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten, sized_by_numbers

_OF_SHAPES = frozenset(
    (
        aten.zeros_like.default,
        aten.ones_like.default,
        aten.full_like.default,
        aten.new_zeros.default,
        aten.new_ones.default,
        aten.new_full.default,
    )
)
"""Calls that read no numbers of the tensor that they are given."""

_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)

_COPIES = aten.repeat_interleave.self_Tensor

_MASKS = (torch.bool, torch.uint8)

Known = dict[fx.Node, Any]


def keep_settled_sizes(module: fx.GraphModule) -> None:
    """Puts a constant in place of each such call.

    Leaves the graph as it is where a call writes what is not known into what is.
    """
    sized = [n for n in module.graph.nodes if is_sized(n)]
    if not sized:
        return
    known = _known(module)
    if known is None:
        return
    for node in reversed(sized):
        parts = [n for n in node.users if n.target is operator.getitem]
        for one in parts or [node]:
            if isinstance(known.get(one), Tensor):
                one.replace_all_uses_with(_constant(module, node, one.name, known[one]))
        if node in known and (not parts or not any(one.users for one in parts)):
            for one in (*parts, node):
                module.graph.erase_node(one)
    for node in list(module.graph.nodes):
        if masks_of(node):
            _by_places(module, node, known)
        elif node.target is _COPIES:
            _by_copies(module, node, known)
    module.recompile()


def masks_of(node: fx.Node) -> list[fx.Node]:
    """Masks that say which elements a call takes of another value."""
    if node.target is aten.masked_select.default:
        given: list[Any] = [node.args[1]]
    else:
        given = list(node.args[1]) if node.target in _INDEXED else []  # type: ignore[arg-type]
    return [m for m in given if isinstance(m, fx.Node) and _dtype(m) in _MASKS]


def sizes_of(node: fx.Node) -> list[fx.Node]:
    """The operands of a sized call whose numbers say how large its result is."""
    if node.target is _COPIES:
        return [node.args[1]]  # type: ignore[list-item]
    return masks_of(node) or [node]


def _dtype(node: fx.Node) -> torch.dtype | None:
    made = node.meta.get("val")
    return made.dtype if isinstance(made, Tensor) else None


def is_sized(node: fx.Node) -> bool:
    """Whether the result of a call has as many elements as the numbers of its operands say."""
    target = node.target
    if not sized_by_numbers(target):
        return False
    return target is not aten.index.Tensor or bool(masks_of(node))


def _known(module: fx.GraphModule) -> Known | None:
    """What the calls give that depend on no input and draw nothing; None where one of their results is overwritten."""
    known: Known = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = getattr(module, str(node.target), None)
            if isinstance(value, Tensor):
                known[node] = value.detach().clone()
            continue
        if node.op != "call_function":
            continue
        ready = all(source in known for source in node.all_input_nodes)
        if isinstance(node.target, torch._ops.OpOverload):
            if not ready and any(into in known for into in _written(node)):
                return None
            ready = ready and torch.Tag.nondeterministic_seeded not in node.target.tags
        if ready or node.target in _OF_SHAPES:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: known[n] if n in known else _blank(n))
            try:
                with torch.no_grad():
                    known[node] = node.target(*args, **kwargs)
            except Exception:  # it is asked for what the graph alone does not say
                continue
    return known


def _written(node: fx.Node) -> list[Any]:
    """What a call changes in place."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    changed = [a for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    given = dict(zip((a.name for a in arguments), node.args)) | dict(node.kwargs)
    return [given.get(a.name) for a in changed]


def _by_places(module: fx.GraphModule, node: fx.Node, known: Known) -> None:
    """An index by masks that are known, as one by the places where they are true."""
    masks = masks_of(node)
    if any(m not in known for m in masks):
        return
    x, graph = node.all_input_nodes[0], module.graph
    given: Sequence[Any] = node.args[1]  # type: ignore[assignment]
    if node.target is aten.masked_select.default:
        shape = torch.broadcast_shapes(x.meta["val"].shape, known[masks[0]].shape)
        known = {**known, masks[0]: known[masks[0]].expand(shape)}
        with graph.inserting_before(node):
            whole = graph.call_function(aten.expand.default, (x, list(shape)))
        whole.meta = {"val": x.meta["val"].expand(shape)}
        x, given, node.target = whole, masks, aten.index.Tensor
    indices: list[Any] = []
    for index in given:
        for places in known[index].nonzero(as_tuple=True) if index in masks else [None]:
            indices.append(index if places is None else _constant(module, node, f"{node.name}_{len(indices)}", places))
    node.args = (x, indices, *node.args[2:])


def _by_copies(module: fx.GraphModule, node: fx.Node, known: Known) -> None:
    """Elements that are repeated as often as known numbers say, as an index that names each so often."""
    x, repeats, *rest = node.args
    dim = rest[0] if rest else node.kwargs.get("dim")
    if not isinstance(x, fx.Node) or not isinstance(repeats, fx.Node) or repeats not in known:
        return
    value, graph = x.meta["val"], module.graph
    if dim is None and value.dim() != 1:
        with graph.inserting_before(node):
            flat = graph.call_function(aten.reshape.default, (x, [-1]))
        flat.meta = {"val": value.reshape(-1)}
        x, value = flat, flat.meta["val"]
    dim = 0 if dim is None else dim
    size = value.shape[dim]
    if not isinstance(size, int):  # it is the samples that are repeated
        return
    index = torch.repeat_interleave(known[repeats].expand(size))
    node.args, node.kwargs = (x, dim, _constant(module, node, f"{node.name}_copies", index)), {}
    node.target = aten.index_select.default


def _constant(module: fx.GraphModule, before: fx.Node, name: str, value: Tensor) -> fx.Node:
    module.register_buffer(f"_settled_{name}", value.clone(), persistent=False)
    with module.graph.inserting_before(before):
        made = module.graph.get_attr(f"_settled_{name}")
    made.meta = {"val": value}
    return made


def _blank(node: fx.Node) -> Tensor | None:
    """Of the shape of a value whose numbers are not known."""
    made = node.meta.get("val")
    return torch.zeros(made.shape, dtype=made.dtype) if isinstance(made, Tensor) else None
