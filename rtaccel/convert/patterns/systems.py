"""Rules for systems of linear equations, inverses and factors of small matrices."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.decompositions.systems import PIVOTS
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, general

aten = torch.ops.aten
MAX_N, MAX_COLUMNS = 64, 4096


def _square(call: Call, value: Any) -> int:
    meta = value.meta["val"]
    n = meta.shape[-1]
    if meta.dtype != torch.float32 or not isinstance(n, int) or not 1 <= n <= MAX_N or meta.shape[-2] != n:
        raise Refused(f"is of matrices other than float32 of 1 to {MAX_N} rows")
    return n


def _solved(call: Call, kind: str, operands: dict[str, tuple[Any, list[int]]], n: int, columns: int, turned: bool,
            vector: bool = False) -> OpNode:  # fmt: skip
    """operands: by name, each with the order of its last two dimensions and the shape that it has or broadcasts to.

    turned: the result is the other way round. vector: b and the result are columns without a dimension for it."""
    shape = [*call.shape, 1] if kind == "pivots" or vector else list(call.shape)
    lead = shape[:-2]
    views: dict[str, View] = {}
    tensors: dict[str, Tensor] = {}
    for name, (value, order) in operands.items():
        constant = call.repeated(value)
        view = call.stored(value) if constant is None else layout.dense(name, constant.shape, None)
        if vector and name == "b":
            view = View(view.base, (*view.dims, ()), view.offset)
        if order == [1, 0]:
            view = layout.permute(view, [*range(len(view.dims) - 2), len(view.dims) - 1, len(view.dims) - 2])
        if any(view.has_batch(len(view.dims) - d) for d in (1, 2)):
            raise Refused("layout: its samples are rows of a matrix")
        if constant is not None:
            if constant.is_complex():
                raise Refused(f"has a parameter of {constant.dtype}")
            matrix = constant.detach().float()
            tensors[name] = matrix.unsqueeze(-1) if vector and name == "b" else matrix
            if order == [1, 0]:
                tensors[name] = tensors[name].mT
        else:
            views[name] = view
    if not views:
        raise Refused("computes nothing from the inputs")
    samples = call.leading([View("", v.dims[:-2]) for v in views.values()], lead)
    count = prod(a.size for dim in samples for a in dim if not a.batch)
    reads = []
    for view in views.values():
        own = view.shape[-2:]
        whole = _spread(view, samples, own)
        reads.append(call.build.packed(whole, width=own[-1] or 1).base if not _lies(call, whole) else whole.base)
    for name, tensor in tensors.items():
        sizes = [prod(a.size for a in dim if not a.batch) for dim in samples]
        tensors[name] = tensor.expand([*sizes, *tensor.shape[-2:]]).reshape(-1).contiguous()
    rows = n
    made = 1 if kind == "pivots" else columns
    tail = ((Atom(rows, 1),),) if kind == "pivots" else ((Atom(rows, made),), (Atom(made, 1),))
    result = call.build._dense_like(View("", (*samples, *tail)))
    if turned:
        result = layout.permute(result, [*range(len(lead)), len(lead) + 1, len(lead)])
    if len(result.dims) > len(call.shape):
        result = View("", result.dims[: len(call.shape)])  # a vector again
    attrs = {"kind": kind, "n": n, "columns": columns if "b" in operands else 1, "count": count}
    return call.op_node(
        "solve", reads, result, count * rows * made, made if made > 1 else rows, attrs=attrs, tensors=tensors
    )


def _spread(view: View, samples: list[tuple[Atom, ...]], own: tuple[int, ...]) -> View:
    """A view with these leading dimensions, repeated where it has none or one of size 1."""
    dims = list(view.dims[:-2])
    dims = [()] * (len(samples) - len(dims)) + dims
    found: list[tuple[Atom, ...]] = []
    for dim, wanted in zip(dims, samples):
        size, full = prod(a.size for a in dim), prod(a.size for a in wanted)
        batch = any(a.batch for a in dim)
        if batch or size == full:
            found.append(dim)
        elif any(a.batch for a in wanted):
            found.append(tuple(Atom(a.size, 0, a.batch) for a in wanted))
        else:
            found.append((Atom(full, 0),))
    return View(view.base, (*found, *view.dims[-2:]), view.offset)


def _lies(call: Call, view: View) -> bool:
    """Whether the matrices lie one behind the other by rows already."""
    buffer = call.build.buffers[view.base]
    dense = call.build._dense_like(view)
    if not (layout.same_layout(view, dense) and layout.covers(view, buffer.elements)):
        return False
    return buffer.width != 0 or call.build.pin(view.base, view.shape[-1])


def _first_of(call: Call) -> Call:
    """The call as one of its first result: the others are factors and error codes, which are not read."""
    if isinstance(call.node.meta.get("val"), Tensor):
        return call
    parts: dict[Any, fx.Node] = {}
    for user in call.node.users:
        if user.args[1] == 0 or any(r.target is not aten._linalg_check_errors.default for r in user.users):
            parts[user.args[1]] = user
    if set(parts) != {0}:
        raise Refused("gives factors that are read")
    inner = Call(call.build, parts[0])
    inner._arguments = call._arguments
    return inner


@general(aten.linalg_solve.default, aten.linalg_solve_ex.default, aten._linalg_solve_ex.default)
def _solve(call: Call) -> OpNode:
    a, b = call["A"], call["B"]
    n = _square(call, a)
    outer = _first_of(call)
    vector = len(outer.shape) == a.meta["val"].dim() - 1
    left = call["left"]
    order = [0, 1] if left else [1, 0]
    columns = 1 if vector else outer.shape[-1 if left else -2]
    if not isinstance(columns, int) or columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    return _solved(outer, "solve", {"a": (a, order), "b": (b, order)}, n, columns, not left, vector)


@general(aten.linalg_inv.default, aten.linalg_inv_ex.default, aten.inverse.default)
def _inverse(call: Call) -> OpNode:
    a = call["self" if call.node.target is aten.inverse.default else "A"]
    n = _square(call, a)
    return _solved(_first_of(call), "inverse", {"a": (a, [0, 1])}, n, n, False)


OLDER = (aten.cholesky.default,) if hasattr(aten, "cholesky") else ()
"""What newer releases of torch no longer have."""


@general(aten.linalg_cholesky.default, aten.linalg_cholesky_ex.default, *OLDER)
def _cholesky(call: Call) -> OpNode:
    n = _square(call, call["self"])
    upper = bool(call["upper"])
    return _solved(_first_of(call), "cholesky", {"a": (call["self"], [1, 0] if upper else [0, 1])}, n, n, upper)


@general(aten.linalg_solve_triangular.default)
def _triangular(call: Call) -> OpNode:
    a, b = call["self"], call["B"]
    n = _square(call, a)
    left = bool(call["left"])
    below = bool(call["upper"]) != left  # of what is solved: the other way round, a triangle is the other one
    kind = f"{'unit ' if call['unitriangular'] else ''}{'lower' if below else 'upper'}"
    order = [0, 1] if left else [1, 0]
    columns = call.shape[-1 if left else -2]
    if columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    return _solved(call, kind, {"a": (a, order), "b": (b, order)}, n, columns, not left)


@general(aten.cholesky_solve.default)
def _by_factor(call: Call) -> OpNode:
    a, b = call["input2"], call["self"]
    n = _square(call, a)
    columns = call.shape[-1]
    if columns > MAX_COLUMNS:
        raise Refused("has too many right sides")
    order = [1, 0] if call["upper"] else [0, 1]
    return _solved(call, "factored", {"a": (a, order), "b": (b, [0, 1])}, n, columns, False)


@general(PIVOTS)
def _pivots(call: Call) -> OpNode:
    n = _square(call, call["a"])
    return _solved(call, "pivots", {"a": (call["a"], [0, 1])}, n, 1, False)
