"""Rules for calls that go along lines of a value: running sums and extremes, sums of whole numbers, sorting, the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.decompositions.lines.running_op import RUNNING_EXTREME
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode, module_name
from rtaccel.convert.frontend.rolled.scan_op import LINEAR_SCAN
from rtaccel.convert.patterns.rules import Call, Refused, general, of_one_sample, whole


@dataclass(frozen=True)
class Lines:
    """A value cut into lines. view: without the dimension that they run along. run: that dimension."""

    view: View
    run: Atom

    def against(self, result: View) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(sizes, place of this value, place of the result) of the dimensions that lines differ in."""
        found = iteration(result, [self.view, result])
        if found is None:
            raise Refused("layout: its samples are joined with another dimension")
        return found.dims, found.places[0], found.places[1]


def lines_of(call: Call, value: Any, dims: Sequence[int]) -> Lines:
    """dims: those that lines run along, in this order."""
    view = call.stored(value)
    if call.repeated(value) is not None:
        raise Refused("reads a constant")
    if not all(dim or view.dims == () for dim in view.shape):
        raise Refused("has no elements")
    if any(view.has_batch(d) for d in dims):
        raise Refused("joins samples")
    others = [d for d in range(len(view.dims)) if d not in dims]
    turned = layout.permute(view, [*others, *dims])
    kept, along = turned.dims[: len(others)], [a for dim in turned.dims[len(others) :] for a in dim]
    runs = layout.merged(along)
    if len(runs) > 1:
        turned = call.build.packed(turned)
        kept = turned.dims[: len(others)]
        runs = layout.merged([a for dim in turned.dims[len(others) :] for a in dim])
    return Lines(View(turned.base, kept, turned.offset), runs[0] if runs else Atom(1, 1))


def _dims(call: Call, name: str, rank: int) -> list[int]:
    """The dimensions that an argument names; all where it names none."""
    given = call[name]
    found = [given] if isinstance(given, int) else list(given or [])
    return sorted({d % max(rank, 1) for d in found}) if found else list(range(rank))


def _without(view: View, dim: int) -> View:
    return View(view.base, (*view.dims[:dim], *view.dims[dim + 1 :]), view.offset)


def _scanned(call: Call, kind: str, dim: int) -> OpNode:
    view = call.stored(call["self"])
    dim %= max(len(view.dims), 1)
    lines = lines_of(call, call["self"], [dim])
    result = call.ordered(call.shape, view)
    target = layout.run_of(result, dim)
    assert target is not None
    dims, x, y = lines.against(_without(result, dim))
    attrs = {
        "kind": kind, "last": 0, "dims": (*dims, lines.run.size), "places": ((*x, lines.run.stride), (*y, target.stride)),
    }  # fmt: skip
    elements = prod(dims) * lines.run.size
    return call.op_node("scan", [lines.view.base], result, elements, call.row_of(result), True, attrs=attrs)


def _running(kind: str) -> Callable[[Call], OpNode | str]:
    def apply(call: Call) -> OpNode | str:
        made = call.node.meta["val"]
        given = call["self"].meta["val"]
        stored = {torch.int32: torch.int64}.get(given.dtype, given.dtype)
        if not given.dim():
            return "is of one number"
        if made.dtype not in (torch.float32, torch.int64) or stored != made.dtype:
            return f"gives {made.dtype} of {given.dtype}"
        return _scanned(call, kind, call["dim"])

    return apply


for _target, _kind in ((aten.cumsum, "sum"), (aten.cumprod, "prod"), (aten.logcumsumexp, "logsumexp")):
    general(_target.default)(_running(_kind))


@general(aten.cummax.default, aten.cummin.default)
def _extremes(call: Call) -> OpNode | str:
    """Their values alone: where they are is read in few models."""
    parts = {user.args[1]: user for user in call.node.users}
    if set(parts) != {0}:
        return "gives where its running extremes are"
    inner = Call(call.build, parts[0])
    inner._arguments = call._arguments
    return _scanned(inner, "max" if call.node.target is aten.cummax.default else "min", call["dim"])


@general(RUNNING_EXTREME)
def _values_of_extremes(call: Call) -> OpNode | str:
    return _running("max" if call["largest"] else "min")(call)


def _joined(kind: str, dims: str | None = "dim") -> Callable[[Call], OpNode | str]:
    """A reduction of whole numbers: the last of their running sums."""

    def apply(call: Call) -> OpNode | str:
        given, made = call["self"].meta["val"], call.node.meta["val"]
        if given.dtype not in (torch.int64, torch.int32) or made.dtype not in (torch.int64, torch.int32):
            return f"gives {made.dtype} of {given.dtype}"
        rank = given.dim()
        over = list(range(rank)) if dims is None else _dims(call, dims, rank)
        lines = lines_of(call, call["self"], over)
        shape = [s for d, s in enumerate(call.stored(call["self"]).shape) if d not in over]
        result = call.ordered(shape, lines.view)
        sizes, x, y = lines.against(result)
        seen = result
        if dims is not None and call["keepdim"]:
            queue = list(result.dims)
            seen = View("", tuple((Atom(1, 1),) if d in over else queue.pop(0) for d in range(rank)))
        attrs = {"kind": kind, "last": 1, "dims": (*sizes, lines.run.size), "places": ((*x, lines.run.stride), y)}
        return call.op_node("scan", [lines.view.base], seen, prod(sizes), call.row_of(result), True, attrs=attrs)

    return apply


for _call, _kind, _name in (
    (aten.sum.dim_IntList, "sum", "dim"), (aten.sum.default, "sum", None), (aten.prod.dim_int, "prod", "dim"),
    (aten.prod.default, "prod", None), (aten.amax.default, "max", "dim"), (aten.amin.default, "min", "dim"),
    (aten.max.default, "max", None), (aten.min.default, "min", None),
):  # fmt: skip
    whole(_call)(_joined(_kind, _name))


# -- orders --------------------------------------------------------------------------------------------------------------


def _ordered(call: Call, dims: Sequence[int], k: int, descending: bool, results: dict[str, Any], keepdim: bool = True,
             extreme: bool = False) -> OpNode:  # fmt: skip
    """results: "values" or "indices" -> the graph node that is to have them. extreme: a NaN is it, be it the least or not."""
    view = call.stored(call["self"])
    if not results:
        raise Refused("gives what nobody reads")
    lines = lines_of(call, call["self"], dims)
    shape = [s for d, s in enumerate(view.shape) if d not in dims]
    if len(dims) == 1 and keepdim:  # in the order of the value
        dim = dims[0]
        shape.insert(dim, k)
        seen = call.ordered(shape, view)
        along = layout.run_of(seen, dim)
        assert along is not None
        spread = _without(seen, dim)
    else:
        spread = call.ordered(shape, lines.view)
        along = Atom(1, 1)
        queue = list(spread.dims)
        ones = tuple((Atom(1, 1),) if d in dims else queue.pop(0) for d in range(len(view.dims)))
        seen = View("", ones) if keepdim else spread
    sizes, x, y = lines.against(spread)
    places = ((*x, lines.run.stride), (*y, along.stride))
    attrs = {
        "descending": int(descending), "nan_first": int(extreme and not descending), "k": k,
        "gives": ",".join(results), "dims": (*sizes, lines.run.size), "places": places,
    }  # fmt: skip
    elements = prod(sizes) * k
    width = (
        k if call.build.windowed and list(dims) == [len(view.dims) - 1] else 0
    )  # a row of its own for each time step
    writes = [call.give(node, seen, elements, width) for node in results.values()]
    return OpNode("order", call.node, module_name(call.node), [lines.view.base], writes, attrs=attrs)


def _results(call: Call) -> dict[str, Any]:
    parts = {user.args[1]: user for user in call.node.users}
    return {name: parts[i] for i, name in enumerate(("values", "indices")) if i in parts}


def _rank(call: Call) -> int:
    rank: int = call["self"].meta["val"].dim()
    if not rank:
        raise Refused("is of one number")
    return rank


@general(aten.argmax.default, aten.argmin.default)
def _argument(call: Call) -> OpNode | str:
    rank = _rank(call)
    dims = list(range(rank)) if call["dim"] is None else [call["dim"] % rank]
    descending = call.node.target is aten.argmax.default
    return _ordered(call, dims, 1, descending, {"indices": call.node}, bool(call["keepdim"]), True)


@general(aten.max.dim, aten.min.dim)
def _extreme(call: Call) -> OpNode | str:
    results = _results(call)
    if set(results) == {"values"}:
        return "gives values alone"  # of which a sum is the quicker form
    descending = call.node.target is aten.max.dim
    return _ordered(call, [call["dim"] % _rank(call)], 1, descending, results, bool(call["keepdim"]), True)


@general(aten.topk.default)
def _topk(call: Call) -> OpNode | str:
    dim = call["dim"] % _rank(call)
    if not isinstance(call["k"], int) or call["k"] < 1:
        return "takes no elements"
    return _ordered(call, [dim], call["k"], bool(call["largest"]), _results(call))


@general(aten.sort.default, aten.sort.stable)
def _sort(call: Call) -> OpNode | str:
    dim = call["dim"] % _rank(call)
    return _ordered(call, [dim], call["self"].meta["val"].shape[dim], bool(call["descending"]), _results(call))


@general(aten.argsort.default, aten.argsort.stable)
def _argsort(call: Call) -> OpNode | str:
    dim = call["dim"] % _rank(call)
    size = call["self"].meta["val"].shape[dim]
    return _ordered(call, [dim], size, bool(call["descending"]), {"indices": call.node})


@general(LINEAR_SCAN)
def _recurrence(call: Call) -> OpNode | str:
    """y_t = a_t * y_(t-1) + b_t. A factor that is constant lies as the result does."""
    rank = len(call.shape)
    dim = call["dim"] % rank
    like = call.stored(call["b"])
    result = call.ordered(call.shape, like)
    target = layout.run_of(result, dim)
    if target is None or any(v.meta["val"].dtype != torch.float32 for v in (call["a"], call["b"])):
        return "runs along samples, or is of other numbers than float32"
    left, own = _without(result, dim), [lines_of(call, call["b"], [dim])]
    constant = call.repeated(call["a"])
    if constant is None:
        own.insert(0, lines_of(call, call["a"], [dim]))
    found = iteration(left, [*(lines.view for lines in own), left])
    if found is None:
        return "layout: its samples are joined with another dimension"
    steps = call.shape[dim]
    places = [(*place, lines.run.stride if lines.run.size > 1 else 0) for place, lines in zip(found.places, own)]
    places.append((*found.places[-1], target.stride))
    tensors = {}
    if constant is not None:
        tensors["a"] = _as_it_lies(constant, result)
        places.insert(0, places[-1])
    attrs = {"dims": (*found.dims, steps), "places": tuple(places), **({"wide": 1} if call["wide"] else {})}
    elements = prod(found.dims) * steps
    reads = [lines.view.base for lines in own]
    return call.op_node("linear_scan", reads, result, elements, call.row_of(result), tensors=tensors, attrs=attrs)


def _as_it_lies(constant: torch.Tensor, result: View) -> torch.Tensor:
    """A constant, broadcast, with its elements in the order of those of the result."""
    at = layout.offsets(result)
    made = torch.empty(at.size)
    made[torch.from_numpy(at.reshape(-1))] = of_one_sample(constant.float().cpu(), at.shape).reshape(-1)
    return made
