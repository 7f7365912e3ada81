"""From a captured graph to nodes over stored values: what is dead is dropped, what only looks at a value is a view."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.as_strided import expect_own_strides
from rtaccel.convert.frontend.constants import is_free, is_known, take_value
from rtaccel.convert.frontend.decompose import decompose, take_back
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.graph.values import Values, stored_apart
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import OpNode, constant, depended_on, is_pointwise, module_name
from rtaccel.convert.frontend.view_ops import look
from rtaccel.convert.frontend.written_out import READS_PARAMETER, match_with_values, write_joined, write_result
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.traits import FALLBACK

Match = Callable[["Builder", fx.Node], "OpNode | str"]
_LOOKS_ONLY = (aten.view.default, aten._unsafe_view.default)


class Builder(Values):
    """Walks an exported graph once."""

    def __init__(self, exported: ExportedGraph, batch: int | None, match: Match, windowed: bool = False) -> None:
        """match: gives the node that computes a call, or the reason why there is none. windowed: as `Values` has it."""
        super().__init__(exported, batch, windowed)
        self._match = match
        self.constants = dict(exported.constants)
        self.repeated: dict[str, Tensor] = {}  # constants repeated over the samples, which are 1 in them
        self.parts: dict[str, tuple[View | None, ...]] = {}  # of a call that gives several views; None: no elements
        self.trailing: dict[str, tuple[int, ...]] = {}
        self.samples = _symbols_of_samples(exported) if batch is not None and exported.any_batch else frozenset()
        self._open = _open_inputs(exported)
        self.computed: dict[tuple[str, int], Any] = {}  # values free of the inputs, by node and number of samples
        self._free: dict[fx.Node, bool] = {}
        self._inserted: list[fx.Node] = []  # by decompositions

    def build(self) -> OpGraph:
        """One node for each call that a result needs; nothing is fused or left out yet."""
        nodes = list(self.exported.graph.nodes)
        output_node = next(n for n in nodes if n.op == "output")
        needed = depended_on(output_node.all_input_nodes)
        for node in nodes:
            if node.op == "placeholder" and node.name in self.exported.inputs:
                self.adopt(node)
                self._widen(node)
            elif node.op == "call_function" and node in needed:
                self._call(node)
        outputs = tuple(self._output(o) if isinstance(o, fx.Node) else constant(o) for o in output_node.args[0])
        if self.samples and len(_open_inputs(self.exported)) < len(self._open):
            # Its shapes, and constants made of them, are the trace's from there on.
            raise UnsupportedProblem(
                "compile", "a call that closes the batch", "an open batch", "Give it fixed shapes."
            )
        return OpGraph(
            self._read(outputs),
            self.buffers,
            self.views,
            outputs,
            self.trailing,
            self.batch is not None,
            self.constants,
        )

    def _read(self, outputs: tuple[Any, ...]) -> tuple[OpNode, ...]:
        """The nodes that a result depends on: not those that gave a size which the others know already, nor copies for a rule
        that did not fit in the end."""
        wanted = {o for o in outputs if isinstance(o, str)}
        wanted |= {self.views[o].base for o in wanted if o in self.views}
        kept: list[OpNode] = []
        for op_node in reversed(self.op_nodes):
            if wanted & {*op_node.writes}:
                kept.append(op_node)
                wanted |= {*op_node.reads}
        return tuple(reversed(kept))

    def _call(self, node: fx.Node) -> None:
        if any(_is_data_dependent(n) for n in (node, *node.all_input_nodes)):
            self.op_nodes.append(self._torch(node, "a shape depends on the numbers in a tensor"))
            return
        if self._crosses_samples(node):
            self.op_nodes.append(self._torch(node, "layout: every sample meets every other"))
            return
        if node.name in self.views or is_known(self, node) or look(self, node) or write_joined(self, node):
            return
        found = self._match(self, node)
        if isinstance(found, str):
            first = found == READS_PARAMETER
            made = match_with_values(self, node, self._match) if first else None
            if made is None and self._decomposed(node):
                return
            if made is None and not first:
                made = match_with_values(self, node, self._match)
            found = made or self._torch(node, found)
        self.op_nodes.append(found)

    def _crosses_samples(self, node: fx.Node) -> bool:
        """Whether the number of samples is the size of several dimensions: a view has samples in one."""
        made = node.meta.get("val")
        if self.batch is not None and is_pointwise(node.target):
            views = [self.views[s.name] for s in node.all_input_nodes if s.name in self.views]
            if len({len(v.dims) - v.batch_dim for v in views if v.batch_dim is not None}) > 1:
                return True
        if not self.samples or not isinstance(made, Tensor):
            return False
        return sum(not isinstance(s, int) and bool(s.node.expr.free_symbols & self.samples) for s in made.shape) > 1

    def free_of_inputs(self, node: fx.Node) -> bool:
        """Whether a value depends on constants and on the number of samples alone."""
        if node not in self._free:
            self._free[node] = is_free(self, node)
        return self._free[node]

    def _decomposed(self, node: fx.Node) -> bool:
        """Whether the call was taken apart into calls that operators compute, all of them."""
        made = node.meta.get("val")
        parts = made if isinstance(made, (tuple, list)) else (made,)
        if not parts or any(not isinstance(part, Tensor) or part.numel() == 0 for part in parts):
            return False
        if not isinstance(made, Tensor) and any(reader.target is not operator.getitem for reader in node.users):
            return False
        found = decompose(node)
        if found is None:
            return False
        before = self._snapshot()
        self._inserted += found.nodes
        for part in found.nodes:
            if isinstance(part.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat)):
                continue  # a size: views have it from their result
            try:
                self._call(part)
            except UnsupportedProblem:  # the call itself may do what its parts cannot
                self._restore(before)
                return False
            if self.op_nodes[len(before[0]) :] and self.op_nodes[-1].is_fallback:
                self._restore(before)
                return False
        read = found.results if isinstance(made, Tensor) else [found.results[int(r.args[1])] for r in node.users]  # type: ignore[arg-type]
        known = {**self.constants, **self.repeated, **self.views}
        if any(not isinstance(r, fx.Node) or r.name not in known for r in read):
            self._restore(before)  # it gives a tensor of torch's as it is
            return False
        if isinstance(made, Tensor):
            self._is_now(node, found.results[0])
        else:
            for reader in node.users:
                self._is_now(reader, found.results[reader.args[1]])  # type: ignore[index]
        return True

    def _is_now(self, node: fx.Node, result: fx.Node) -> None:
        """The node's value is that of another one."""
        if self.free_of_inputs(result):
            self._free[node] = True
            take_value(self, node, result)
        if result.name in self.constants:
            self.constants[node.name] = self.constants[result.name]
        elif result.name in self.repeated and result.name not in self.views:
            self.repeated[node.name] = self.repeated[result.name]
        else:
            self.views[node.name] = self.views[result.name]

    def _snapshot(self) -> tuple[Any, ...]:
        buffers = {name: replace(buffer) for name, buffer in self.buffers.items()}
        return (
            list(self.op_nodes),
            len(self._inserted),
            dict(self.repeated),
            dict(self.constants),
            dict(self.views),
            buffers,
            dict(self.parts),
            dict(self._packed),
        )

    def _restore(self, before: tuple[Any, ...]) -> None:
        """As it was: rows that were decided on the way are open again."""
        self.op_nodes, inserted, self.repeated, self.constants, self.views, kept, self.parts, self._packed = before
        take_back(self._inserted[inserted:])
        del self._inserted[inserted:]
        for name, buffer in kept.items():
            self.buffers[name].width = buffer.width
        for name in self.buffers.keys() - kept.keys():
            del self.buffers[name]

    def _torch(self, node: fx.Node, reason: str) -> OpNode:
        expect_own_strides(node)
        if node.target in _LOOKS_ONLY:  # at memory that need not lie as torch's own would
            node.target = aten.reshape.default
        reads = []
        for source in node.all_input_nodes:
            self._spelled_out(source)
            view = self._for_torch(source)
            reads.append(view.base if view is not None else source.name)
        if not _is_data_dependent(node):
            self.adopt(node)
        layout_bound = reason.startswith("layout: ")
        reason = reason.removeprefix("layout: ")
        return OpNode(FALLBACK, node, _label(node), reads, [node.name], reason=reason, layout=layout_bound)

    def _for_torch(self, node: fx.Node) -> View | None:
        """Where a tensor lies that torch reads, or the caller: it knows no negative strides."""
        view = self.views.get(node.name)
        if view is not None and any(a.stride < 0 for a in view.atoms):
            self.views[node.name] = view = self.packed(view)
        return view

    def _spelled_out(self, node: fx.Node) -> None:
        """What is the same for every sample, as a tensor of all of them, where that is read."""
        if node.name in self.repeated and node.name not in self.views:
            del self.repeated[node.name]
            reason = "repeats what is the same for every sample"
            call = node.args[0] if node.target is operator.getitem else None
            if isinstance(call, fx.Node) and not any(call.name in d.writes for d in self.op_nodes):
                self.op_nodes.append(self._torch(call, reason))  # nobody has needed the call whose result it is
            self.op_nodes.append(self._torch(node, reason))

    def _output(self, node: fx.Node) -> str:
        """Name of what the model returns: a value as it lies where that is the tensor, else a packed copy of it."""
        written = write_result(self, node)
        if written is not None:
            return written
        if node.name in self.constants:
            return node.name
        self._spelled_out(node)
        view = self._for_torch(node)
        if view is None or view.base in self.exported.inputs or self._by_torch(view.base):
            return node.name
        if (
            self.batch is not None and view.batch_dim is None
        ):  # samples joined with another dimension: a view of the value
            return node.name if view.base != node.name else self._returned(node, view)
        apart = stored_apart(node)
        if apart is not None and self.buffers[view.base].dtype != str(apart).removeprefix("torch."):
            return node.name
        if self.windowed:  # in whatever order: a step of it is put in that of the tensor
            self.views[node.name] = view = self.whole(view)
            return view.base
        plain = self._dense_like(view)
        if not (layout.same_layout(view, plain) and layout.covers(view, self.buffers[view.base].elements)):
            self.views[node.name] = view = self.packed(view)
        first = self.batch is None or view.batch_dim == 0
        shape = view.shape if self.batch is None else view.shape[1:]
        if first and self.trailing.setdefault(view.base, shape) == shape:
            return view.base
        if view.base != node.name and node.name not in self.buffers:
            return node.name
        # A recurrent state lies samples first, and is returned layers first; a copy may be returned in two shapes.
        return self._returned(node, view)

    def _returned(self, node: fx.Node, view: View) -> str:
        """A name for a view of a value that has the node's own name."""
        returned = f"{node.name}:returned"
        self.views[returned] = view
        return returned

    def _by_torch(self, base: str) -> bool:
        return any(d.is_fallback and base in d.writes for d in self.op_nodes)


def _symbols_of_samples(exported: ExportedGraph) -> frozenset[Any]:
    """The symbols that stand for the number of samples: each input may have one of its own."""
    return frozenset().union(*(size.node.expr.free_symbols for size in _open_inputs(exported)))


def _open_inputs(exported: ExportedGraph) -> list[Any]:
    """The first dimensions of inputs that no size is known of."""
    made = [n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder" and n.name in exported.inputs]
    first = [x.shape[0] for x in made if isinstance(x, Tensor) and x.dim()]
    return [size for size in first if not isinstance(size, int) and size.node.expr.free_symbols]


def _is_data_dependent(node: fx.Node) -> bool:
    """Whether a size, or a number of Python, is known when the call has run and not before."""
    made = node.meta.get("val")
    for part in made if isinstance(made, (tuple, list)) else (made,):
        numbers = part.shape if isinstance(part, Tensor) else (part,)
        if any(isinstance(n, (torch.SymInt, torch.SymFloat, torch.SymBool)) and not n.node.has_hint() for n in numbers):
            return True
    return False


def _label(node: fx.Node) -> str:
    target = node.target
    what = target.__name__ if target is operator.getitem else str(target).removeprefix("aten.")
    where = module_name(node)
    return what if where == node.name else f"{where} ({what})"
