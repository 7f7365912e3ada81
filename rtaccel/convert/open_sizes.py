"""A model captured once with several dimensions open, and its graph for one choice of their sizes.

torch.export leaves the dimensions as symbols. For given sizes the numbers are put in their place, in shapes and arguments:
milliseconds, where capturing anew takes seconds. A model whose code depends on a size, as a loop over time steps does, is
captured anew for each; so is a size for which a condition that export noted does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.batch_mode import best_fixed, choose_batch_mode, traced_batch
from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import capture_open
from rtaccel.convert.frontend.exported.example import shared_batch
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.guards.sizes import batch_range
from rtaccel.convert.frontend.run_call import run_call
from rtaccel.core.dynamic import DynamicDim
from rtaccel.core.errors import ShapeError

Sizes = tuple[int, ...]
Captured = tuple[ExportedGraph, OpGraph]


class OpenSizes:
    """The graphs of a model for all sizes of some dimensions.

    symbolic: whether they come from one capture; else `why` says what stands against it.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], dims: tuple[DynamicDim, ...], specialize: bool) -> None:
        self.model, self._args, self.dims, self._specialize = model, args, dims, specialize
        self._made: dict[Sizes, Captured] = {}
        self._program: torch.export.ExportedProgram | None = None
        self._symbols: tuple[Any, ...] = ()
        self.why = "" if not specialize else "specialize=True takes the numbers of the example"
        if not self.why:
            try:
                self._program, self._base = capture_open(model, args, {(d.argument, d.dim): (d.lo, d.hi) for d in dims})
                self._symbols = self._symbols_of(self._base)
            except Exception as error:  # whatever export says: each size is captured by itself then
                self.why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
                self._program = None

    @property
    def symbolic(self) -> bool:
        return self._program is not None

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Places in `dims` of those that have one size. Without a symbolic graph, dimensions with the same bounds."""
        found: dict[Any, list[int]] = {}
        for place, dim in enumerate(self.dims):
            key = self._symbols[place] if self.symbolic else (dim.lo, dim.hi)
            found.setdefault(key, []).append(place)
        return tuple(map(tuple, found.values()))

    def sizes_of(self, args: Sequence[Any]) -> Sizes:
        """The sizes that these arguments have."""
        return tuple(args[d.argument].shape[d.dim] for d in self.dims)

    def resized(self, sizes: Sizes) -> tuple[Any, ...]:
        """The example with other sizes: its values again from the beginning where one grows."""
        args = list(self._args)
        for dim, size in zip(self.dims, sizes):
            tensor = args[dim.argument]
            args[dim.argument] = tensor.index_select(dim.dim, torch.arange(size) % tensor.shape[dim.dim]).contiguous()
        return tuple(args)

    def at(self, sizes: Sizes) -> Captured:
        """Raises ShapeError for sizes that contradict one another, UnsupportedProblem where the model cannot be captured."""
        if sizes not in self._made:
            found = self._put_in(self._program, sizes) if self._program is not None else None
            if found is None:
                found = choose_batch_mode(self.model, self.resized(sizes), self._specialize)
            else:  # its nodes are those of the other sizes; of a capture by itself they are not, whatever their names
                found = replace(found[0], fitted=self._fitted), found[1]
            self._made[sizes] = found
        return self._made[sizes]

    def _fitted(self, args: Sequence[Any]) -> ExportedGraph:
        sizes = self.sizes_of(args)
        exported = self.at(sizes)[0]
        if exported.fitted is None:
            where = ", ".join(f"{d} = {size}" for d, size in zip(self.dims, sizes))
            raise ShapeError(
                "calibration", f"a batch with {where}, for which the model has another graph", "sizes that share one",
                "Leave the batch out.",
            )  # fmt: skip
        return exported

    def _symbols_of(self, base: ExportedGraph) -> tuple[Any, ...]:
        """Of each dimension. Raises ValueError where export found that the model fixes it."""
        places = {node.name: node.meta["val"] for node in base.graph.nodes if node.name in base.inputs}
        starts, leaf = [], 0
        for argument in self._args:
            starts.append(leaf)
            leaf += len(pytree.tree_leaves(argument))
        found = []
        for dim in self.dims:
            size = places[base.inputs[starts[dim.argument]]].shape[dim.dim]
            if isinstance(size, int) or not size.node.expr.is_Symbol:
                raise ValueError(f"the model's code fixes {dim} to {size}")
            found.append(size.node.expr)
        return tuple(found)

    def _put_in(self, program: torch.export.ExportedProgram, sizes: Sizes) -> Captured | None:
        """None where the graph is another one at these sizes."""
        known: dict[Any, int] = {}
        for dim, symbol, size in zip(self.dims, self._symbols, sizes):
            if known.setdefault(symbol, size) != size:
                other = next(d for d, s in zip(self.dims, self._symbols) if s == symbol)
                raise ShapeError(
                    "compile", f"{dim} of {size} and {other} of {known[symbol]}", "one size: the model needs them equal",
                    "Pass inputs that agree.",
                )  # fmt: skip
        example = shared_batch(self._args) if self._base.any_batch else None
        batch = batch_range(program, example if example is not None else 1, known)
        if batch is None or (self._base.any_batch and batch.fixed):
            return None
        exported = replace(self._base, graph=with_sizes(self._base.graph, known))
        if min(sizes) < 2 and not self._is_model(exported, sizes):  # of which torch's record says nothing
            return None
        if not exported.any_batch:
            return best_fixed(exported, self.resized(sizes))
        exported = replace(exported, batch=batch)
        graph = build_graph(exported, traced_batch(exported))
        return None if graph.may_fit_fixed else (exported, graph)

    @torch.no_grad()
    def _is_model(self, exported: ExportedGraph, sizes: Sizes) -> bool:
        """Whether the graph, run by torch, gives what the model gives for the example in these sizes."""
        args = self.resized(sizes)
        env: dict[str, Any] = {**exported.constants, **dict(zip(exported.inputs, pytree.tree_leaves(args)))}
        try:
            for node in exported.graph.nodes:
                if node.op == "call_function":
                    given, named = fx.map_arg((node.args, node.kwargs), lambda n: env[n.name])
                    env[node.name] = run_call(node, given, named)
            output = next(n for n in exported.graph.nodes if n.op == "output")
            mine = [env[o.name] if isinstance(o, fx.Node) else o for o in output.args[0]]
            theirs = pytree.tree_leaves(self.model(*args))
        except Exception:  # a call that does not fit at this size
            return False
        return len(mine) == len(theirs) and all(_equal(a, b) for a, b in zip(mine, theirs))


def _equal(mine: Any, theirs: Any) -> bool:
    if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
        return bool(mine == theirs)
    return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5, equal_nan=True)


def with_sizes(graph: fx.Graph, known: dict[Any, int]) -> fx.Graph:
    """A copy in which the symbols of `known` are numbers, and nodes that are only numbers are gone."""
    made, put = fx.Graph(), _values(known)
    became: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        value = pytree.tree_map(put, node.meta.get("val"))
        if node.op == "call_function" and isinstance(value, (int, float)) and not isinstance(value, bool):
            became[node] = value
            continue
        copied = made.node_copy(node, lambda n: became[n])
        copied.meta = {**node.meta, "val": value}
        became[node] = copied
    return made


def _values(known: dict[Any, int]) -> Callable[[Any], Any]:
    """Puts numbers in place of symbols, in a number or a tensor of torch's tracing."""
    import sympy

    def number(value: Any) -> Any:
        if isinstance(value, (int, float)):
            return value
        expression = sympy.sympify(value.node.shape_env.replace(value.node.expr).xreplace(known))
        if not expression.free_symbols:
            return int(expression) if isinstance(value, torch.SymInt) else float(expression)
        env = value.node.shape_env
        hint = int(expression.xreplace({s: env.backed_var_to_val[s] for s in expression.free_symbols}))
        return env.create_symintnode(expression, hint=hint)

    def put(value: Any) -> Any:
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return number(value)
        if not isinstance(value, Tensor) or all(isinstance(n, int) for n in value.shape):
            return value
        shape, stride = [number(n) for n in value.shape], [number(n) for n in value.stride()]
        with value.fake_mode:  # type: ignore[attr-defined]
            return torch.empty_strided(shape, stride, dtype=value.dtype, device=value.device)

    return put
