"""Entries that a mask chooses (`edges[:, mask]`, `mask.nonzero()`), as all entries beside a note of those that count.

How many entries a mask chooses depends on numbers, and a plan has fixed sizes. Most code does not care which place an entry has,
or whether others stand between: it computes with each by itself, and adds them up at places that an index names. So nothing is
chosen. Every call computes all entries, places that do not count read row 0, and what adds up leaves them out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.graph.open_shapes import leaves_open
from rtaccel.convert.frontend.nodes import is_pointwise

Rule = Callable[["_Rewriter", Any], Any]
RULES: dict[Any, Rule] = {}
"""Calls that do more than compute each entry by itself. `rules` fills it."""

_EACH = {
    aten.linear.default, aten.mm.default, aten.addmm.default, aten.matmul.default, aten.view.default, aten.reshape.default,
    aten._unsafe_view.default, aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.permute.default, aten.transpose.int, aten.t.default, aten.select.int, aten.slice.Tensor, aten.unbind.int,
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.clone.default, aten.contiguous.default,
    aten.detach.default, aten.alias.default, aten.stack.default, aten.layer_norm.default, aten.flatten.using_ints,
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default, aten.batch_norm.default,
    aten._native_batch_norm_legit_no_training.default, aten.prelu.default, aten.dropout.default, aten.glu.default,
    aten._to_copy.default, aten.to.dtype, aten.type_as.default, aten.rms_norm.default, operator.getitem,
}  # fmt: skip
"""Calls that keep an entry in its place, as long as a dimension of their result is that of the entries."""

_NEW = {
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default, aten.zeros.default,
    aten.ones.default, aten.full.default, aten.empty.memory_format,
}  # fmt: skip
"""Calls that take no more than a dtype from their input."""

NOT = {aten.bitwise_not.default, aten.logical_not.default}
_VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints}


class Kept(Exception):
    """The graph stays what it was: some call needs the chosen entries themselves."""


def with_all_entries(graph: fx.Graph) -> fx.Graph:
    """The graph without sizes that depend on numbers; itself where it has none, or where a call needs one."""
    from rtaccel.convert.frontend.all_entries import rules, written

    assert rules and written  # imported for their rules
    if not any(chosen(node) for node in graph.nodes):
        return graph
    try:
        return _Rewriter(graph).run()
    except Exception:  # a call that is not known for such entries, or not with these arguments
        return graph


def _sizes(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape)


def chosen(node: fx.Node) -> bool:
    """Whether a size, or a number, of the node's value depends on numbers."""
    made = node.meta.get("val")
    parts = made if isinstance(made, (tuple, list)) else (made,)
    for part in parts:
        if isinstance(part, Tensor) and any(free_unbacked_symbols(s) for s in part.shape):
            return True
        if isinstance(part, (torch.SymInt, torch.SymBool, torch.SymFloat)) and free_unbacked_symbols(part):
            return True
    return False


class _Rewriter:
    """made: new nodes, or numbers, of the old ones. sizes: how many entries there are of a size that depends on numbers, by its
    expression. order: what these entries are, mask by mask. counts: the node that says which count."""

    def __init__(self, graph: fx.Graph) -> None:
        self.old, self.new = graph, fx.Graph()
        self.made: dict[fx.Node, Any] = {}
        self.sizes: dict[str, int] = {}
        self.order: dict[str, tuple[Any, ...]] = {}
        self.counts: dict[str, fx.Node] = {}
        self.firsts: dict[str, fx.Node] = {}
        self.current: fx.Node | None = None
        values = [n.meta["val"] for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)]
        self.mode = detect_fake_mode(values)

    def run(self) -> fx.Graph:
        for node in self.old.nodes:
            self.current = node
            touched = chosen(node) or any(chosen(source) for source in node.all_input_nodes)
            if not touched or node.op == "placeholder":
                self.made[node] = self.new.node_copy(node, self.made.__getitem__)
            elif node.op != "call_function" or self._asserts(node):
                if node.op != "call_function":
                    raise Kept("a result has as many entries as a mask chooses")
            else:
                self.made[node] = self._call(node)
        self.new.eliminate_dead_code()
        return self.new

    @staticmethod
    def _asserts(node: fx.Node) -> bool:
        """Conditions on sizes, and what raises where they do not hold: that a mask chooses no more entries than it has."""
        if isinstance(node.meta.get("val"), torch.SymBool):
            return True
        return isinstance(node.target, torch._ops.OpOverload) and (
            "_assert" in node.target.name() or "sym_constrain" in node.target.name()
        )

    def _call(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return self.number(value)
        rule = RULES.get(node.target)
        if rule is not None:
            return rule(self, node)
        return self.plain(node)

    def plain(self, node: fx.Node) -> fx.Node:
        """The call on all entries, where it computes each by itself and keeps it in its place."""
        if not is_pointwise(node.target) and node.target not in _EACH | _NEW:
            raise Kept(f"{node.target} of chosen entries")
        if not chosen(node):
            if node.target not in _NEW:
                raise Kept("entries are joined")
            return self.again(node)
        expressions = {e for n in (node, *node.all_input_nodes) for e in self.expressions(n)}
        if len({self.order[e] for e in expressions}) > 1:
            raise Kept("entries of several masks meet")
        if node.target in _VIEWS:
            self._same_place(node)
        return self.again(node)

    def _same_place(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        before = []
        for one in (source, node):
            shape, at = one.meta["val"].shape, self.place(one)
            before.append(
                prod(int(n) for n in shape[:at]) if all(isinstance(n, int) for n in shape[:at]) else shape[:at]
            )
        if before[0] != before[1]:
            raise Kept("entries move")

    def again(self, node: fx.Node) -> fx.Node:
        """The same call of the new arguments, whose result must have the sizes that the old one has with all entries."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.made.__getitem__)
        return self.like(node, self.call(node.target, *args, **kwargs))

    def like(self, node: fx.Node, found: fx.Node) -> fx.Node:
        wants, has = node.meta["val"], found.meta["val"]
        for want, made in zip(*((v if isinstance(v, (tuple, list)) else (v,)) for v in (wants, has))):
            if isinstance(want, Tensor):
                sizes = [self.number(s) if free_unbacked_symbols(s) else s for s in want.shape]
                if want.dtype != made.dtype or [str(s) for s in sizes] != [str(s) for s in made.shape]:
                    raise Kept("another shape")
        return found

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node, its value from the values of its arguments."""
        given = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
        with self.mode or nullcontext(), leaves_open(given), torch.no_grad():
            value = target(*given[0], **given[1])
        made = self.new.call_function(target, args, kwargs)
        made.meta = {**(self.current.meta if self.current is not None else {}), "val": value}
        return made

    def number(self, size: Any) -> int:
        """A size with all entries in the place of the chosen ones."""
        found = size.node.expr
        for symbol in found.free_symbols:
            if str(symbol) not in self.sizes:
                raise Kept(f"the size {symbol}")
            found = found.subs(symbol, self.sizes[str(symbol)])
        return int(found)

    def expressions(self, node: fx.Node) -> list[str]:
        """Of the sizes of a value that depend on numbers."""
        value = node.meta.get("val")
        parts: Any = value if isinstance(value, (tuple, list)) else (value,)
        return [str(s.node.expr) for p in parts if isinstance(p, Tensor) for s in _sizes(p) if free_unbacked_symbols(s)]

    def place(self, node: fx.Node) -> int:
        """The dimension of the entries."""
        found = [d for d, s in enumerate(node.meta["val"].shape) if free_unbacked_symbols(s)]
        if len(found) != 1:
            raise Kept("entries in several dimensions")
        return found[0]

    def note(self, size: Any, order: tuple[Any, ...], count: int, counts: Callable[[], fx.Node]) -> None:
        """What the entries of a size are. counts: makes the node that says which of them count."""
        name = str(size.node.expr)
        if self.order.setdefault(name, order) != order:
            raise Kept("two orders of entries")
        if name not in self.counts:
            self.counts[name] = counts()
            self.sizes[name] = count

    def first_like(self, node: fx.Node) -> fx.Node:
        """The first node that is the same elementwise call of the same values: code often writes a mask twice, as `~mask`."""
        if node.op != "call_function" or not is_pointwise(node.target):
            return node
        if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
            return node
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.first_like(n).name)
        turned = node.target in NOT and node.meta["val"].dtype == torch.bool
        return self.firsts.setdefault(f"{'not' if turned else node.target}{args}{kwargs}", node)

    def idle(self, node: fx.Node, dims: int, at: int) -> fx.Node:
        """bool [1, .., entries, .., 1], the entries in dimension `at` of `dims`: those that do not count."""
        size = node.meta["val"].shape[self.place(node)]
        counts = self.counts[str(size.node.expr)]
        none = self.call(aten.logical_not.default, counts)
        shape = [1] * dims
        shape[at] = counts.meta["val"].shape[0]
        return self.call(aten.view.default, none, shape)

    def filled(self, node: fx.Node, number: float) -> fx.Node:
        """The new value of a node with a number in the entries that do not count."""
        made = self.made[node]
        return self.call(
            aten.masked_fill.Scalar, made, self.idle(node, made.meta["val"].dim(), self.place(node)), number
        )
