"""The form of a model that leaves the fewest calls to torch: with an open batch where it can be, else with fixed shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import capture, capture_as_called, capture_guarded
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.guards.numbers import Guard
from rtaccel.convert.frontend.guards.settled_sizes import is_sized
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.process.one_at_a_time import one_at_a_time


@one_at_a_time
def choose_batch_mode(
    model: nn.Module, args: tuple[Any, ...], specialize: bool = False, guard: Guard = Guard.NONE
) -> tuple[ExportedGraph, OpGraph]:
    """The model captured and matched. Forms are tried in the order of what they leave open: any number of samples; the
    samples of the example, each on its own; all of the example as one. The next is only tried where a call of the last
    falls back to PyTorch for the way its tensors lie, or where no result has samples: the inputs have no batch dimension then.

    specialize, guard: as in `capture`; guarded also where a shape depends on numbers, and all is native with those of the
    example. Raises UnsupportedProblem where the model cannot be captured.
    """
    found = _choose(model, args, specialize, guard)
    if guard is Guard.NONE or specialize or not found[1].fallback_count or not _counts(found[0]):
        return found
    guarded = capture_guarded(model, args, guard)
    other = best_fixed(guarded, args) if guarded is not None else found
    return other if not other[1].fallback_count else found


def _counts(exported: ExportedGraph) -> bool:
    """Whether a shape depends on the numbers in a tensor."""
    if exported.guarded is not None:
        return False
    values = [node.meta.get("val") for node in exported.graph.nodes if node.op == "call_function"]
    sizes = [n for v in values if isinstance(v, Tensor) for n in v.shape if not isinstance(n, int)]
    return any(free_unbacked_symbols(n) for n in sizes) or any(map(is_sized, exported.graph.nodes))


def _choose(model: nn.Module, args: tuple[Any, ...], specialize: bool, guard: Guard) -> tuple[ExportedGraph, OpGraph]:
    exported = capture(model, args, specialize=specialize, guard=guard)
    if exported.any_batch:
        try:
            graph = build_graph(exported, traced_batch(exported))
        except UnsupportedProblem as error:
            return _because(f"with an open batch a call is refused: {error.got}", *fixed_batch_mode(model, args))
        if not graph.fallback_count or not (graph.may_fit_fixed or _joins_all(exported)):
            return exported, graph
        best = exported, graph
        exported = capture(model, args, fixed=True)
        found = build_graph(exported, None)
        if found.fallback_count >= graph.fallback_count:
            return best
        return _because("so more of the model is native", exported, found)
    return best_fixed(exported, args)


def _because(why: str, exported: ExportedGraph, graph: OpGraph) -> tuple[ExportedGraph, OpGraph]:
    """With a reason for the batch that it has."""
    return replace(exported, batch=replace(exported.batch, why=(*exported.batch.why, why))), graph


def fixed_batch_mode(model: nn.Module, args: tuple[Any, ...]) -> tuple[ExportedGraph, OpGraph]:
    """The model captured with the shapes of the example alone."""
    return best_fixed(capture(model, args, fixed=True), args)


def called_mode(
    model: nn.Module, args: tuple[Any, ...], specialize: bool, guard: Guard
) -> tuple[ExportedGraph, OpGraph] | None:
    """The model as it is called, not as it is exported; None where it cannot be captured so."""
    exported = capture_as_called(model, args, specialize, guard)
    return None if exported is None else best_fixed(exported, args)


def best_fixed(exported: ExportedGraph, args: tuple[Any, ...]) -> tuple[ExportedGraph, OpGraph]:
    """A graph of fixed shapes, matched in the form that leaves the fewest calls to torch. Raises UnsupportedProblem where each is
    refused: a call may need memory that torch alone has in one form, and that a view has in another."""
    candidates: list[OpGraph] = []
    refused: list[UnsupportedProblem] = []
    for batch in _fixed_forms(args):
        try:
            candidates.append(build_graph(exported, batch))
        except UnsupportedProblem as error:
            refused.append(error)
            continue
        if not candidates[-1].fallback_count:
            return exported, candidates[-1]
    if not candidates:
        raise refused[0]
    return exported, min(candidates, key=lambda graph: graph.fallback_count)


def _fixed_forms(args: tuple[Any, ...]) -> tuple[int | None, ...]:
    """The samples of the example, each on its own, or None for all of it as one. One sample is better taken as one: then
    what is first in a tensor need not be samples, as it is not in a recurrent state of one layer."""
    shared = _shared_batch(args)
    if shared is None:
        return (None,)
    return (None, shared) if shared == 1 else (shared, None)


def _joins_all(exported: ExportedGraph) -> bool:
    """Whether no result has a dimension of samples."""
    output = next(node for node in exported.graph.nodes if node.op == "output")
    values = [node.meta.get("val") for node in output.all_input_nodes]
    return all(isinstance(value, Tensor) and all(isinstance(n, int) for n in value.shape) for value in values)


def traced_batch(exported: ExportedGraph) -> int | None:
    """The number of samples that stood for an open batch while the model was captured."""
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in exported.inputs and isinstance(node.meta.get("val"), Tensor):
            first = node.meta["val"].shape[0]
            return first if isinstance(first, int) else int(first.node.hint)
    return None


def _shared_batch(args: tuple[Any, ...]) -> int | None:
    """The first dimension of every input tensor, where they agree and have others."""
    tensors = [t for t in pytree.tree_leaves(args) if isinstance(t, Tensor)]
    sizes = {t.shape[0] if t.dim() > 1 else None for t in tensors}
    return next(iter(sizes)) if len(sizes) == 1 and None not in sizes else None
