"""Puts real calls in the place of complex ones, through the whole graph or not at all."""

from __future__ import annotations

import operator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex import arithmetic, constants, fourier, frames, functions, matrices, systems
from rtaccel.convert.frontend.complex.fourier import TO_REAL
from rtaccel.convert.frontend.complex.pairs import RULES, NoPairs, Pair
from rtaccel.convert.frontend.decompose import insert_parts
from rtaccel.convert.frontend.graph.open_shapes import leaves_open

assert (
    arithmetic and constants and fourier and frames and functions and matrices and systems
)  # imported for their rules


def without_complex(graph: fx.Graph) -> bool:
    """Rewrites a graph of functional ATen calls in place, so that its calls read and give real tensors.

    What stays splits complex constants and inputs, and joins what the model returns. False, with the graph as it was, where a
    call is not known for pairs.
    """
    if not any(_touches(node) for node in graph.nodes):
        return True
    for node in graph.find_nodes(op="call_function", target=aten._assert_tensor_metadata.default):
        if _touches(node):  # what torch.export leaves of `.to`: the shapes of a graph are what they are
            graph.erase_node(node)
    if any(not _known(node) for node in graph.nodes if node.op == "call_function" and _touches(node)):
        return False
    backup = [(node, node.args, node.kwargs) for node in graph.nodes]
    before = set(graph.nodes)
    try:
        _Rewriter(graph).run()
    except Exception:  # some call with these arguments: the graph goes back to what it was
        for node, args, kwargs in backup:
            node.args, node.kwargs = args, kwargs
        for node in reversed(list(graph.nodes)):
            if node not in before:
                graph.erase_node(node)
        return False
    graph.eliminate_dead_code()
    return True


def _is_complex(node: fx.Node) -> bool:
    made = node.meta.get("val")
    return any(isinstance(p, Tensor) and p.is_complex() for p in (made if isinstance(made, (tuple, list)) else (made,)))


def _touches(node: fx.Node) -> bool:
    """A transform has complex numbers inside, though it is real and of real ones."""
    return _is_complex(node) or node.target in TO_REAL or any(_is_complex(source) for source in node.all_input_nodes)


def _known(node: fx.Node) -> bool:
    return node.target in RULES or node.target is operator.getitem or node.target in _SIZES


_SIZES = {aten.sym_size.int, aten.sym_numel.default}


def _with_real(found: Any) -> Any:
    """A product by the imaginary unit has no real part: it is zero."""
    return Pair(torch.zeros_like(found.im), found.im) if isinstance(found, Pair) and found.re is None else found


class _Rewriter:
    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.mode = detect_fake_mode([n.meta["val"] for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)])
        self._first_call = next(n for n in graph.nodes if n.op != "placeholder")
        self.pairs: dict[fx.Node, Any] = {}  # complex node -> its parts as nodes, or a list of such pairs

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "output":
                self._output(node)
            elif node.op == "placeholder" and _is_complex(node):
                self._placeholder(node)
            elif node.op == "call_function" and _touches(node):
                self._call(node)

    def _trace(self, node: fx.Node, function: Any, sources: list[fx.Node], before: fx.Node) -> list[Any]:
        """The calls of a function of real tensors, put before a node; the nodes of its results."""
        values = [s.meta["val"] for s in sources]
        with self.mode or nullcontext(), leaves_open(values):  # constants that the function makes have no data either
            made = make_fx(function, tracing_mode="real", pre_dispatch=True, _allow_non_fake_inputs=True)(*values)
        found = insert_parts(made.graph, before, node, sources)
        if found is None:
            raise NoPairs("a call with a constant of its own")
        return found

    def _placeholder(self, node: fx.Node) -> None:
        def parts(x: Tensor) -> list[Tensor]:
            both = aten.view_as_real.default(x)
            return [both.select(-1, 0), both.select(-1, 1)]

        self.pairs[node] = Pair(*self._trace(node, parts, [node], self._first_call))

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self.pairs[node] = self.pairs[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        if node.target in _SIZES:
            node.args = (self.pairs[node.args[0]].re, *node.args[1:])  # type: ignore[index]
            return
        if node.target is aten.view_as_real.default and self._reads_parts(node):
            return
        sources: list[fx.Node] = []
        for source in node.all_input_nodes:
            sources += [part for part in self.pairs.get(source, (source,)) if part is not None]
        sources = list(dict.fromkeys(sources))

        def call(*tensors: Tensor) -> list[Any]:
            given = dict(zip(sources, tensors))

            def value(n: fx.Node) -> Any:
                if n not in self.pairs:
                    return given[n]
                return Pair(*(None if part is None else given[part] for part in self.pairs[n]))

            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            found = RULES[node.target](*args, **kwargs)
            several = [_with_real(one) for one in (found if isinstance(found, list) else [found])]
            return [part for one in several for part in (one if isinstance(one, Pair) else (one,)) if part is not None]

        made = node.meta["val"]
        results = self._trace(node, call, sources, node)
        if isinstance(made, (tuple, list)):
            self.pairs[node] = [Pair(*results[i : i + 2]) for i in range(0, len(results), 2)]
        elif made.is_complex():
            self.pairs[node] = Pair(*results)
        else:
            node.replace_all_uses_with(results[0])

    def _reads_parts(self, node: fx.Node) -> bool:
        """x.real and x.imag are selected from both parts side by side: they are given as they are. True where that is all."""
        own = self.pairs[node.args[0]]  # type: ignore[index]
        last, others = node.meta["val"].dim() - 1, False
        for reader in list(node.users):
            dims: Any = reader.args[1] if len(reader.args) > 1 else ()
            turned = reader.target is aten.permute.default and dims[-1] in (-1, last)  # as torch.vmap leaves it
            for one in list(reader.users) if turned else [reader]:
                chosen = one.target is aten.select.int and one.args[1] in (-1, last)
                part = None if not chosen else own.re if one.args[2] in (0, -2) else own.im
                if part is None:  # imaginary parts that are all zero have to be made
                    others = True
                    continue
                one.replace_all_uses_with(self._turned(part, reader, list(dims[:-1])) if turned else part)
        return not others

    def _turned(self, part: fx.Node, reader: fx.Node, dims: list[int]) -> fx.Node:
        """A part as a permutation of both, whose last dimension they are, has it."""
        return self._trace(reader, lambda t: [t.permute(dims)], [part], reader)[0]

    def _output(self, node: fx.Node) -> None:
        def value(n: fx.Node) -> Any:
            if n not in self.pairs:
                return n
            re, im = self.pairs[n].re, self.pairs[n].im
            return self._trace(n, lambda *t: [torch.complex(t[0], t[-1] if im else torch.zeros_like(t[0]))],
                               [re, im] if im else [re], node)[0]  # fmt: skip

        node.args = fx.map_arg(node.args, value)
