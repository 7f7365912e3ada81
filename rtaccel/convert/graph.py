"""From a captured graph to folded drafts: what is dead is dropped, what only renames a value is seen through."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.capture import Captured
from rtaccel.convert.draft import Draft, fold, module_name
from rtaccel.convert.match import match

aten = torch.ops.aten

_SAME_VALUE = {
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
}
_RESHAPES = {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten._unsafe_view.default}


@dataclass(frozen=True)
class InputView:
    """A value that is a model input as it lies in memory, its trailing dimensions seen as columns."""

    source: str
    frame: tuple[Any, ...]
    trailing: tuple[int, ...]


@dataclass(frozen=True)
class DraftGraph:
    """drafts in order. views: value name -> the input it is. outputs: value names, or numbers and None as they are."""

    drafts: tuple[Draft, ...]
    views: dict[str, InputView]
    outputs: tuple[Any, ...]
    alias: dict[str, str]


def _shape(node: Any) -> tuple[Any, ...] | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _input_view(node: fx.Node, source: fx.Node, inputs: tuple[str, ...]) -> InputView | None:
    """A reshape of a model input that keeps its leading dimensions and joins the others."""
    before, after = _shape(source), _shape(node)
    if source.name not in inputs or before is None or after is None or len(after) < 2:
        return None
    lead, trailing = after[:-1], before[len(after) - 1 :]
    if before[: len(lead)] != lead or not trailing or not all(isinstance(d, int) for d in trailing):
        return None
    return InputView(source.name, lead, trailing)


def drafts_of(captured: Captured) -> DraftGraph:
    """Matches every call that the outputs need, then folds neighbours."""
    alias: dict[fx.Node, fx.Node] = {}
    views: dict[str, InputView] = {}

    def resolve(node: fx.Node) -> fx.Node:
        while node in alias:
            node = alias[node]
        return node

    output_node = next(n for n in captured.graph.nodes if n.op == "output")
    for node in captured.graph.nodes:
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = resolve(node.args[0])
        reshape = node.target in _RESHAPES
        same_dtype = _dtype(node) == _dtype(source)
        if node.target is aten.clone.default and (source.name in captured.inputs or source.name in views):
            continue  # a copy of the caller's own memory is what the model asks for
        if (node.target in _SAME_VALUE or (reshape and _shape(node) == _shape(source))) and same_dtype:
            alias[node] = source
        elif reshape and (view := _input_view(node, source, captured.inputs)):
            views[node.name] = view
    for node in captured.graph.nodes:
        shape = _shape(node)
        if node.op == "placeholder" and node.name in captured.inputs and shape and isinstance(shape[-1], int):
            views[node.name] = InputView(node.name, shape[:-1], shape[-1:])

    outputs = tuple(resolve(o) if isinstance(o, fx.Node) else o for o in output_node.args[0])
    needed = _needed([o for o in outputs if isinstance(o, fx.Node)], resolve)
    drafts = []
    for node in captured.graph.nodes:
        if node.op != "call_function" or node not in needed or node in alias or node.name in views:
            continue
        found = match(node, captured.constants, resolve)
        if isinstance(found, str):
            reads = [resolve(n).name for n in node.all_input_nodes]
            found = Draft("torch", node, _label(node), reads, reason=found)
        drafts.append(found)
    names = {o.name for o in outputs if isinstance(o, fx.Node)}
    drafts = _drop_unused(fold(_drop_unused(drafts, names), names), names)
    return DraftGraph(
        drafts=tuple(drafts),
        views=views,
        outputs=tuple(o.name if isinstance(o, fx.Node) else o for o in outputs),
        alias={node.name: resolve(node).name for node in alias},
    )


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)


def _label(node: fx.Node) -> str:
    target = node.target
    what = target.__name__ if target is operator.getitem else str(target).removeprefix("aten.")
    where = module_name(node)
    return what if where == node.name else f"{where} ({what})"


def _needed(outputs: list[fx.Node], resolve: Any) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        stack.extend(resolve(n) for n in node.all_input_nodes)
    return found


def _drop_unused(drafts: list[Draft], outputs: set[str]) -> list[Draft]:
    """A call that only fed something folded away (the pair behind a BatchNorm) is read by nobody."""
    while True:
        read = outputs | {name for draft in drafts for name in draft.reads}
        kept = [d for d in drafts if d.node.name in read]
        if len(kept) == len(drafts):
            return kept
        drafts = kept
