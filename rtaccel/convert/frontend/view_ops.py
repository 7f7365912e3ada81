"""Calls that only look at a tensor in another way: they become views, and compute nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.decompositions.half import HALVES
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import hints

if TYPE_CHECKING:
    from rtaccel.convert.frontend.graph.builder import Builder

Look = Callable[["Builder", View, fx.Node, "Arguments"], "View | tuple[View | None, ...] | None"]
_LOOKS: dict[Any, Look] = {}


class Arguments:
    """The arguments of a call by their names in its ATen schema, or their defaults."""

    def __init__(self, node: fx.Node) -> None:
        self._node = node
        self._names = schema.arguments if (schema := getattr(node.target, "_schema", None)) else []

    def __getitem__(self, name: str) -> Any:
        index = [a.name for a in self._names].index(name)
        if index < len(self._node.args):
            return self._node.args[index]
        return self._node.kwargs.get(name, self._names[index].default_value)


def looks(*targets: Any) -> Callable[[Look], Look]:
    def add(function: Look) -> Look:
        _LOOKS.update(dict.fromkeys(targets, function))
        return function

    return add


def look(build: Builder, node: fx.Node) -> bool:
    """Whether a call was taken as a view; then the views of the builder hold it."""
    if node.target is operator.getitem:
        source, index = node.args
        parts = build.parts.get(source.name) if isinstance(source, fx.Node) else None
        if parts is None or not isinstance(index, int):
            return False
        part = parts[index]
        if part is None:
            build.constants[node.name] = torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype, device="cpu")
        else:
            build.views[node.name] = part
        return True
    found = _LOOKS.get(node.target)
    if found is None or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    view = build.views.get(node.args[0].name)
    meta = node.meta.get("val")
    if view is None or (isinstance(meta, Tensor) and meta.dtype != node.args[0].meta["val"].dtype and not widens(node)):
        return False
    result = found(build, view, node, Arguments(node))
    if result is None or not _as_traced(build, node, result):
        return False
    if isinstance(result, tuple):
        build.parts[node.name] = result
    else:
        build.views[node.name] = result
    return True


def _as_traced(build: Builder, node: fx.Node, result: View | tuple[View | None, ...]) -> bool:
    """Whether views have samples where torch found an open size: another size may agree with the traced one by chance."""
    if build.batch is None or not build.exported.any_batch:
        return True
    made = node.meta["val"]
    pairs = zip(result, made) if isinstance(result, tuple) else [(result, made)]
    for view, tensor in pairs:
        if view is not None and any(view.has_batch(d) == isinstance(n, int) for d, n in enumerate(tensor.shape)):
            return False
    return True


def widens(node: fx.Node) -> bool:
    """Whether a call gives float32 of an input in half precision."""
    source = node.args[0] if node.args else None
    if node.target is not aten._to_copy.default or not isinstance(source, fx.Node) or source.op != "placeholder":
        return False
    given, made = source.meta.get("val"), node.meta.get("val")
    return (
        isinstance(given, Tensor) and given.dtype in HALVES and isinstance(made, Tensor) and made.dtype == torch.float32
    )


def _sizes(node: fx.Node) -> list[int]:
    return hints(node.meta["val"].shape)


@looks(aten._to_copy.default)
def _wide(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    """Half precision is stored as float32 already."""
    return view if widens(node) else None


@looks(
    aten.alias.default, aten.detach.default, aten.contiguous.default, aten.dropout.default, aten.lift_fresh_copy.default
)
def _same(build: Builder, view: View, node: fx.Node, call: Arguments) -> View:
    return view


@looks(aten.clone.default)
def _clone(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    """A copy of the caller's own memory that the model returns is what the model asks for; any other copy is not needed."""
    returned = any(user.op == "output" for user in node.users)
    return None if returned and view.base in build.exported.inputs else view


@looks(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten._unsafe_view.default, aten.unflatten.int)
def _reshape(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    shape = _sizes(node)
    found = layout.reshape(view, shape)
    if found is None and all(view.shape):
        found = layout.reshape(build.packed(view), shape)
    return found


@looks(aten.permute.default)
def _permute(build: Builder, view: View, node: fx.Node, call: Arguments) -> View:
    return layout.permute(view, call["dims"])


@looks(aten.transpose.int)
def _transpose(build: Builder, view: View, node: fx.Node, call: Arguments) -> View:
    order = list(range(len(view.dims)))
    a, b = call["dim0"] % len(order), call["dim1"] % len(order)
    order[a], order[b] = order[b], order[a]
    return layout.permute(view, order)


@looks(aten.t.default, aten.numpy_T.default)
def _turn(build: Builder, view: View, node: fx.Node, call: Arguments) -> View:
    return layout.permute(view, list(reversed(range(len(view.dims)))))


@looks(aten.unsqueeze.default)
def _unsqueeze(build: Builder, view: View, node: fx.Node, call: Arguments) -> View:
    dim = call["dim"] % (len(view.dims) + 1)
    return View(view.base, (*view.dims[:dim], (Atom(1, 1),), *view.dims[dim:]), view.offset)


@looks(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    rank = len(view.dims)
    if node.target is aten.squeeze.default:
        wanted = set(range(rank))
    else:
        dims = call["dim"]
        wanted = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    gone = {d for d in wanted if view.shape[d] == 1}
    if any(view.has_batch(d) for d in gone):
        return None
    return View(view.base, tuple(dim for d, dim in enumerate(view.dims) if d not in gone), view.offset)


@looks(aten.select.int)
def _select(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    dim = call["dim"] % len(view.dims)
    found = layout.select(view, dim, call["index"])
    if found is None and not view.has_batch(dim):
        found = layout.select(build.packed(view), dim, call["index"])
    return found


@looks(aten.slice.Tensor)
def _slice(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    start, end, step = call["start"] or 0, call["end"], call["step"]
    if step == 1 and str(node.meta["val"].shape) == str(call["self"].meta["val"].shape):
        return view  # all of it, maybe by a size that is known when it runs: `x[: batch * heads]`
    if not all(isinstance(i, int) for i in (start, step)) or not (end is None or isinstance(end, int)):
        return None
    dim = call["dim"] % len(view.dims)
    size = view.shape[dim]
    stop = size if end is None else end
    start, stop, step = slice(start, stop, step).indices(size)
    return build.cut(view, dim, start, stop, step)


@looks(aten.expand.default)
def _expand(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    return layout.expand(view, _sizes(node))


def _pieces(view: View, dim: int, lengths: list[int]) -> tuple[View | None, ...] | None:
    """None among them: one without elements, which is a constant."""
    dim %= len(view.dims)
    found: list[View | None] = []
    start = 0
    for length in lengths:
        piece = layout.slice_of(view, dim, start, start + length, 1)
        if piece is None and length:
            return None
        found.append(piece)
        start += length
    return tuple(found)


@looks(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)
def _split(build: Builder, view: View, node: fx.Node, call: Arguments) -> tuple[View | None, ...] | None:
    dim = call["dim"] % len(view.dims)
    lengths = [part.shape[dim] for part in node.meta["val"]]
    sizes = [n for part in node.meta["val"] for n in part.shape]
    if any(isinstance(n, int) and n == 0 for n in lengths) and not all(isinstance(n, int) for n in sizes):
        return None
    found = _pieces(view, dim, lengths)
    if found is None and not view.has_batch(dim):
        found = _pieces(build.packed(view), dim, lengths)
    return found


@looks(aten.unbind.int)
def _unbind(build: Builder, view: View, node: fx.Node, call: Arguments) -> tuple[View, ...] | None:
    dim = call["dim"] % len(view.dims)
    found = [layout.select(view, dim, i) for i in range(view.shape[dim])]
    return None if any(v is None for v in found) else tuple(v for v in found if v is not None)


@looks(aten.flip.default)
def _flip(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    for dim in call["dims"]:
        dim %= len(view.dims)
        if layout.run_of(view, dim) is None and not view.has_batch(dim):
            view = build.packed(view)
        run = layout.run_of(view, dim)
        if run is None:
            return None
        offset = view.offset + (run.size - 1) * run.stride
        view = View(view.base, (*view.dims[:dim], (Atom(run.size, -run.stride),), *view.dims[dim + 1 :]), offset)
    return view


@looks(aten.repeat.default)
def _repeat(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    repeats = list(call["repeats"])
    dims: list[tuple[Atom, ...]] = [(Atom(1, 1),)] * (len(repeats) - len(view.dims)) + list(view.dims)
    for d, times in enumerate(repeats):
        if times == 1 and isinstance(times, int):
            continue
        if not isinstance(times, int) or any(a.batch for a in dims[d]):
            return None
        dims[d] = (Atom(times, 0), *(a for a in dims[d] if a.size != 1))
    return View(view.base, tuple(dims), view.offset)


@looks(aten.unfold.default)
def _unfold(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    dim = call["dimension"] % len(view.dims)
    run = layout.run_of(view, dim)
    if run is None:
        return None
    count = (run.size - call["size"]) // call["step"] + 1
    windows = (Atom(count, run.stride * call["step"]),)
    return View(
        view.base, (*view.dims[:dim], windows, *view.dims[dim + 1 :], (Atom(call["size"], run.stride),)), view.offset
    )


@looks(aten.diagonal.default)
def _diagonal(build: Builder, view: View, node: fx.Node, call: Arguments) -> View | None:
    a, b = call["dim1"] % len(view.dims), call["dim2"] % len(view.dims)
    runs = layout.run_of(view, a), layout.run_of(view, b)
    if runs[0] is None or runs[1] is None:
        return None
    shift = call["offset"]
    start = max(-shift, 0) * runs[0].stride + max(shift, 0) * runs[1].stride
    size = min(runs[0].size - max(-shift, 0), runs[1].size - max(shift, 0))
    if size <= 0:
        return None
    kept = tuple(dim for d, dim in enumerate(view.dims) if d not in (a, b))
    return View(view.base, (*kept, (Atom(size, runs[0].stride + runs[1].stride),)), view.offset + start)
