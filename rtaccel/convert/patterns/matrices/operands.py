"""How the small matrices of a call lie: one behind the other and by rows, as their operators read and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.patterns.rules import Call, Refused, of_one_sample

MAX_N, MAX_COLUMNS = 64, 4096


@dataclass(frozen=True)
class Operands:
    """reads: values, in the order of the operands. tensors: constants, by name. samples: the dimensions before those of a matrix.
    count: matrices of a sample."""

    reads: list[str]
    tensors: dict[str, Tensor]
    samples: list[tuple[Atom, ...]]
    count: int


def sizes(call: Call, value: Any, most: int = MAX_N) -> tuple[int, int]:
    """(rows, columns) of float32 matrices whose smaller side is `most` at most."""
    meta = value.meta["val"]
    found = tuple(meta.shape[-2:])
    if meta.dtype != torch.float32 or not all(isinstance(n, int) for n in found):
        raise Refused("is of matrices other than float32 of fixed sizes")
    if not 1 <= min(found) <= most or max(found) > MAX_COLUMNS:
        raise Refused(f"is of matrices of {found[0]} x {found[1]}, and kernels take 1 to {most} rows or columns")
    return found[0], found[1]


def square(call: Call, value: Any) -> int:
    rows, columns = sizes(call, value)
    if rows != columns:
        raise Refused("is of matrices that are not square")
    return rows


def operands(
    call: Call, given: Mapping[str, tuple[Any, Sequence[int]]], lead: Sequence[int], vector: bool = False
) -> Operands:
    """given: nodes or constants by name, each with the order of its last two dimensions. lead: what the dimensions before them
    are or broadcast to. vector: b is a column without a dimension for it."""
    views: dict[str, View] = {}
    tensors: dict[str, Tensor] = {}
    for name, (value, order) in given.items():
        constant = value if isinstance(value, Tensor) else call.repeated(value)
        view = call.stored(value) if constant is None else layout.dense(name, constant.shape, None)
        if vector and name == "b":
            view = View(view.base, (*view.dims, ()), view.offset)
        if list(order) == [1, 0]:
            view = layout.permute(view, [*range(len(view.dims) - 2), len(view.dims) - 1, len(view.dims) - 2])
        if any(view.has_batch(len(view.dims) - d) for d in (1, 2)):
            raise Refused("layout: its samples are rows of a matrix")
        if constant is None:
            views[name] = view
            continue
        if constant.is_complex():
            raise Refused(f"has a parameter of {constant.dtype}")
        matrix = constant.detach().float()
        tensors[name] = matrix.unsqueeze(-1) if vector and name == "b" else matrix
        if list(order) == [1, 0]:
            tensors[name] = tensors[name].mT
    if not views:
        raise Refused("computes nothing from the inputs")
    samples = call.leading([View("", v.dims[:-2]) for v in views.values()], lead)
    reads = []
    for view in views.values():
        own = view.shape[-2:]
        whole = _spread(view, samples)
        reads.append(call.build.packed(whole, width=own[-1] or 1).base if not _lies(call, whole) else whole.base)
    fixed = [prod(a.size for a in dim if not a.batch) for dim in samples]
    for name, tensor in tensors.items():
        tensors[name] = of_one_sample(tensor, (*fixed, *tensor.shape[-2:])).reshape(-1).contiguous()
    return Operands(reads, tensors, samples, prod(fixed))


def dense(call: Call, found: Operands, *sides: int, turned: bool = False) -> View:
    """Where results of these sides lie, a matrix of each sample after the other. turned: seen the other way round."""
    strides = [prod(sides[i + 1 :]) for i in range(len(sides))]
    tail = tuple((Atom(side, stride),) for side, stride in zip(sides, strides))
    result = call.build._dense_like(View("", (*found.samples, *tail)))
    rank = len(found.samples)
    return layout.permute(result, [*range(rank), rank + 1, rank]) if turned else result


def _spread(view: View, samples: list[tuple[Atom, ...]]) -> View:
    """A view with these leading dimensions, repeated where it has none or one of size 1."""
    dims = list(view.dims[:-2])
    dims = [()] * (len(samples) - len(dims)) + dims
    found: list[tuple[Atom, ...]] = []
    for dim, wanted in zip(dims, samples):
        size, full = prod(a.size for a in dim), prod(a.size for a in wanted)
        if size == full and layout.same_samples([dim], [wanted]):
            found.append(dim)
        elif size != 1 or any(a.batch for a in dim):
            raise Refused("layout: its operands' samples are different dimensions")
        elif any(a.batch for a in wanted):
            found.append(tuple(Atom(a.size, 0, a.batch) for a in wanted))
        else:
            found.append((Atom(full, 0),))
    return View(view.base, (*found, *view.dims[-2:]), view.offset)


def _lies(call: Call, view: View) -> bool:
    """Whether the matrices lie one behind the other by rows already."""
    buffer = call.build.buffers[view.base]
    dense_view = call.build._dense_like(view)
    if not (layout.same_layout(view, dense_view) and layout.covers(view, buffer.elements)):
        return False
    return buffer.width != 0 or call.build.pin(view.base, view.shape[-1])


def results(call: Call) -> dict[Any, fx.Node]:
    """The results of a call that are read, by their place."""
    return {user.args[1]: user for user in call.node.users}


def one_of(call: Call, place: int) -> Call:
    """The call as one of its result at `place`: the others are factors and error codes, which are not read."""
    if isinstance(call.node.meta.get("val"), Tensor):
        return call
    parts: dict[Any, fx.Node] = {}
    for user in call.node.users:
        if user.args[1] == place or any(r.target is not _CHECK for r in user.users):
            parts[user.args[1]] = user
    if set(parts) != {place}:
        raise Refused("gives factors that are read")
    inner = Call(call.build, parts[place])
    inner._arguments = call._arguments
    return inner


_CHECK = aten._linalg_check_errors.default
