"""A call that no operator computes, as calls of simpler kinds: by torch's own decompositions, on tensors without data.

The new nodes stand in the graph before the call. Whether they are better than the call, the builder finds out: it goes back
where one of them would stay PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.each import EACH
from rtaccel.convert.frontend.decompositions.grouped import BY_NAME
from rtaccel.convert.frontend.decompositions.own import OWN
from rtaccel.convert.frontend.graph.open_shapes import leaves_open
from rtaccel.convert.frontend.retrace import unlogged

_BATCH = "traced_batch"
"""In the meta of a part: what an open batch is in the trace, which its values may have as a number."""

_VIEWS = {
    aten.view.default, aten._unsafe_view.default, aten.reshape.default,
    aten.expand.default,
}  # fmt: skip

WITH_PRODUCTS: set[Any] = {aten.einsum.default}
"""Calls whose products stay as they are written: torch takes `matmul` apart into calls that join dimensions."""


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    from torch._decomp import decomposition_table

    return dict(decomposition_table)


def decomposition(target: Any) -> Callable[..., Any] | None:
    """A function of the same arguments made of simpler calls; None where torch has none."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    own = OWN.get(target) or BY_NAME.get(target._schema.name) or EACH.get(target._schema.name)
    if own is not None:
        return own
    found = _table().get(target)
    if found is not None:
        return found
    if torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), torch._C.DispatchKey.CompositeImplicitAutograd):
        return target.decompose
    return _python_kernel(target)


def _python_kernel(target: torch._ops.OpOverload) -> Callable[..., Any] | None:
    """What a custom operator runs on the CPU, where that is Python: the calls that it makes are traced like a model's.

    A kernel in C++ would read the memory of the tensors, which those of a trace do not have.
    """
    if target.namespace in ("aten", "prims", "rtaccel") or target._schema.is_mutable:
        return None
    from torch._library import custom_ops

    made = getattr(custom_ops, "OPDEFS", {}).get(target._schema.name)  # those of torch.library.custom_op
    if made is not None:
        kernels = made._backend_fns
        return kernels.get("cpu") or kernels.get(None)
    overload = target._schema.overload_name
    name = f"{target._schema.name.replace('::', '/')}{'.' if overload else ''}{overload}"
    written: Any = getattr(torch.library, "_impls", ())  # what Python has registered, by torch's own record
    return partial(target._op_dk, torch._C.DispatchKey.CPU) if f"{name}/CPU" in written else None


@dataclass(frozen=True)
class Parts:
    """nodes: the simpler calls, in order. results: those that have the results of the call, or numbers; None for one that they do
    not give, and that nobody reads."""

    nodes: list[fx.Node]
    results: list[Any]


def decompose(node: fx.Node) -> Parts | None:
    """Inserts the simpler calls before the node; its readers still read the node. None where there is no decomposition, or it
    fails."""
    function = decomposition(node.target)
    if function is None:
        return None
    known = {s: s.meta.get("val") for s in node.all_input_nodes}
    sizes = {s: v for s, v in known.items() if isinstance(v, torch.SymInt)}  # they stay what they are
    sources = [s for s in known if s not in sizes]
    values = [known[s] for s in sources]
    if any(not isinstance(v, Tensor) for v in values):
        return None

    try:
        whole = node.target in WITH_PRODUCTS
        with (
            unlogged(),
            (detect_fake_mode(values) if whole else None) or nullcontext(),
        ):  # its constants have no data either
            made = traced(function, node, sources, sizes, pre_dispatch=whole)
            if writes_in_place(made.graph):
                made = traced(function, node, sources, sizes, functional=True)
    except Exception:  # a decomposition that does not trace: the call stays
        return None
    if writes_in_place(made.graph):
        return None
    new: list[fx.Node] = []
    results = insert_parts(made.graph, node, node, sources, new)
    if any(_is_again(part, node) for part in new):  # torch's own gave the call back: it would be taken apart for ever
        take_back(new)
        return None
    if results is None:
        return None
    if any(i in _read_of(node, results) and result is None for i, result in enumerate(results)):
        take_back(new)
        return None
    return Parts(_without_dead(node, new, results), results)


def writes_in_place(graph: fx.Graph) -> bool:
    """Whether a call writes into a tensor: what reads it later would not have it."""
    targets = [part.target for part in graph.nodes if part.op == "call_function"]
    return any(isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable for target in targets)


def traced(
    function: Callable[..., Any], node: fx.Node, sources: list[fx.Node], fixed: Mapping[fx.Node, Any] = {},
    functional: bool = False, **options: Any,
) -> fx.GraphModule:  # fmt: skip
    """The calls that a function of a node's arguments makes, on the values of the trace. sources: nodes that are the inputs of
    the graph. fixed: further ones that stay what they are. functional: calls that write become calls that give a new tensor."""

    def call(*values: Any) -> Any:
        given = {**fixed, **dict(zip(sources, values))}
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: given[n])
        return pytree.tree_leaves(function(*args, **kwargs))

    run = torch.func.functionalize(call, remove="mutations") if functional else call
    trace = make_fx(run, tracing_mode="real", _allow_non_fake_inputs=True, **options)
    values = [s.meta["val"] for s in sources]
    with leaves_open(values):
        return trace(*values)


def _is_again(part: fx.Node, node: fx.Node) -> bool:
    """Whether a part is the same call of tensors of the same dtypes and shapes."""
    others = [str(fx.map_arg((one.args, one.kwargs), lambda n: None)) for one in (part, node)]
    if part.target is not node.target or others[0] != others[1]:
        return False
    ours, theirs = ([n.meta.get("val") for n in one.all_input_nodes] for one in (part, node))
    return len(ours) == len(theirs) and all(
        isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and str(a.shape) == str(b.shape)
        for a, b in zip(ours, theirs)
    )


def insert_parts(
    made: fx.Graph, before: fx.Node, node: fx.Node, sources: list[fx.Node], new: list[fx.Node] | None = None
) -> list[Any] | None:
    """Copies the calls of a graph in front of `before`, as calls of the module that `node` is of; gives the nodes of its results.
    sources: what its inputs are. new: takes the copies. None, with nothing left, where it has constants of its own."""
    graph = node.graph
    placeholders = iter(sources)
    copies: dict[fx.Node, Any] = {}
    new = [] if new is None else new
    batch = _traced_batch(sources) or node.meta.get(_BATCH)
    with graph.inserting_before(before):
        for part in made.nodes:
            if part.op == "placeholder":
                copies[part] = next(placeholders)
            elif part.op == "call_function":
                copy = graph.node_copy(part, lambda n: copies[n])
                copy.meta = {**node.meta, "val": part.meta.get("val"), _BATCH: batch}
                copy.args = _for_any_batch(copy, batch)
                copies[part] = copy
                new.append(copy)
            elif part.op == "output":
                results: list[Any] = [copies[r] if isinstance(r, fx.Node) else r for r in part.args[0]]
            else:  # a constant of the decomposition's own
                take_back(new)
                return None
    return results


def _traced_batch(sources: list[fx.Node]) -> int | None:
    """The size of an open batch in the trace."""
    shapes = [s.meta["val"].shape for s in sources if isinstance(s.meta.get("val"), Tensor)]
    return next((int(s[0].node.hint) for s in shapes if len(s) and isinstance(s[0], torch.SymInt)), None)


def _for_any_batch(call: fx.Node, batch: int | None) -> tuple[Any, ...]:
    """Arguments of a view without the size of the batch: some decompositions of torch read it as a number."""
    if batch is None or call.target not in _VIEWS:
        return call.args
    given: Any = call.args
    x, sizes, *rest = given
    assert isinstance(sizes, (tuple, list))
    if not sizes or not isinstance(sizes[0], int) or sizes[0] != batch:
        return call.args
    if call.target is aten.expand.default and (len(sizes) != x.meta["val"].dim() or x.meta["val"].shape[0] == 1):
        return call.args  # one row for all samples
    others = call.meta["val"].shape[1:]  # what a -1 among the sizes stands for
    return (x, [-1, *others], *rest) if all(isinstance(n, int) for n in others) else call.args


def _read_of(node: fx.Node, results: list[Any]) -> set[int]:
    """Which of a call's results are read."""
    if isinstance(node.meta.get("val"), Tensor):
        return set(range(len(results)))
    return {int(user.args[1]) for user in node.users}  # type: ignore[arg-type]


def _without_dead(node: fx.Node, new: list[fx.Node], results: list[Any]) -> list[fx.Node]:
    """Without what only makes a result that nobody reads."""
    read = _read_of(node, results)
    needed = {r for i, r in enumerate(results) if i in read and isinstance(r, fx.Node)}
    for part in reversed(new):
        if part in needed:
            needed.update(part.all_input_nodes)
        else:
            node.graph.erase_node(part)
    return [part for part in new if part in needed]


def take_back(new: list[fx.Node]) -> None:
    """The graph without the nodes that decompositions inserted, those inside one another too: nobody else reads them."""
    left = set(new)
    while left:
        free = [part for part in left if not part.users]
        for part in free:
            part.graph.erase_node(part)
        left.difference_update(free)
        if not free:
            raise AssertionError(f"{sorted(n.name for n in left)} of a decomposition are read by others")
