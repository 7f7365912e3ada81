"""Constants as computed values: for operators that read activations where a model hands them a parameter, as with learned
queries or states, for constants that lie several times in the samples, and for those that a model returns.

A stage copies the constant into a value of its own. A stage reads an input, so it copies an element of another value first, which
the constant then lies over.
"""

from __future__ import annotations

from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import constants
from rtaccel.convert.frontend.layout import Atom, View, behind_samples
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

if TYPE_CHECKING:
    from rtaccel.convert.frontend.graph.builder import Builder

READS_PARAMETER = "reads a parameter where operators read activations"
"""Why a call is not matched that one of its constants may be a value for, before it is taken apart."""
MAX_OPERANDS = 6
"""Constants of a call that are tried as values, alone and in pairs."""
MAX_RESULT = 16_384
"""Numbers of a constant result up to which a plan copies it: they take as long as the call of a plan does."""


def match_with_values(build: Builder, node: fx.Node, match: Any) -> OpNode | None:
    """The node that computes a call where one or two of its constants are values; None where there is none."""
    fixed = [s for s in dict.fromkeys(node.all_input_nodes) if s.name in {**build.constants, **build.repeated}]
    fixed = [s for s in fixed if s.name not in build.views][:MAX_OPERANDS]
    if len(fixed) == len(set(node.all_input_nodes)):
        return None  # nothing of the inputs
    for chosen in (*combinations(fixed, 1), *combinations(fixed, 2)):
        before = build._snapshot()
        if not all(_write(build, one) for one in chosen):
            build._restore(before)
            continue
        for one in chosen:
            build.constants.pop(one.name, None)
            build.repeated.pop(one.name, None)
        found = match(build, node)
        if isinstance(found, str):
            build._restore(before)
            continue
        build.constants, build.repeated = before[3], before[2]
        for one in chosen:  # others still read it as the constant that it is
            del build.views[one.name]
        return found
    return None


def _write(build: Builder, node: fx.Node) -> bool:
    """A value that holds the constant of a node for each sample."""
    made, constant = node.meta.get("val"), build.constants.get(node.name)
    if constant is not None and build.batch is not None:
        return False  # of no sample
    tensor = constant if constant is not None else build.repeated[node.name]
    if not isinstance(made, Tensor) or not tensor.dim():
        return False
    return _value(build, node, tensor, [0 if isinstance(s, int) else 1 for s in made.shape])


def write_result(build: Builder, node: fx.Node) -> str | None:
    """The value of a result that is the same for each sample, so that the plan gives all results; None where it stays a constant.
    A large one does: a copy would take longer than the step that it saves."""
    fixed = {**build.constants, **build.repeated}.get(node.name)
    if fixed is None or not fixed.dim() or node.name in build.views or fixed.numel() > MAX_RESULT:
        return None
    if build.batch is not None and isinstance(node.meta["val"].shape[0], int):
        return None  # samples are not the first dimension
    name = _named(node)
    if name not in build.buffers and not _write(build, node):
        return None
    build.views.pop(node.name, None)  # torch reads it as the constant that it is
    build.trailing[name] = tuple(fixed.shape if build.batch is None else fixed.shape[1:])
    return name


def _named(node: fx.Node) -> str:
    return f"{node.name}:value"


def joined(build: Builder, node: fx.Node) -> tuple[Tensor, int, int] | None:
    """(constant, dimension, rows behind each sample) of what is free of the inputs and holds a constant of several rows once for
    each sample in that dimension, as `repeat` and `repeat_interleave` over the samples make it."""
    made = node.meta.get("val")
    if build.batch is None or not isinstance(made, Tensor) or not build.free_of_inputs(node):
        return None
    found = [d for d, size in enumerate(made.shape) if not isinstance(size, int)]
    if len(found) != 1:
        return None
    d = found[0]
    one, two = constants._computed(build, node, 1), constants._computed(build, node, 2)
    if one is None or two is None or one.shape[d] < 2 or two.shape[d] != 2 * one.shape[d]:
        return None
    rows = one.shape[d]
    fits = [n for n in range(rows, 0, -1) if rows % n == 0 and constants._same(two, _of_two(one, d, n))]
    if not fits:
        return None
    fits.sort(key=lambda n: n not in _beside(build, node, rows))  # rows that are alike may be in any order
    return one, d, fits[0]


def _of_two(one: Tensor, dim: int, behind: int) -> Tensor:
    """A constant of one sample for two, which have so many rows of a dimension one behind the other."""
    parts = one.unflatten(dim, (-1, 1, behind))
    sizes = [2 if d == dim + 1 else -1 for d in range(parts.dim())]
    return parts.expand(sizes).flatten(dim, dim + 2)


def _beside(build: Builder, node: fx.Node, rows: int) -> set[int]:
    """How many rows follow one another behind each sample in values that have samples joined with so many rows."""
    size = rows * (build.batch or 1)
    dims = [dim for view in build.views.values() for dim, n in zip(view.dims, view.shape) if n == size]
    return {n for n in map(behind_samples, dims) if n is not None}


def write_joined(build: Builder, node: fx.Node) -> bool:
    """The same as a value; then the views of the builder hold it."""
    found = joined(build, node)
    if found is None:
        return False
    one, dim, behind = found
    return _value(build, node, one, [behind if k == dim else 0 for k in range(one.dim())])


def _value(build: Builder, node: fx.Node, tensor: Tensor, samples: list[int]) -> bool:
    """samples: by dimension, how many elements of a sample follow one another where samples do; 0 where none do."""
    dtype = {torch.float32: "float32", torch.int64: "int64"}.get(tensor.dtype)
    given = [n for n in build.exported.inputs if n in build.views]
    given += [name for op_node in build.op_nodes for name in op_node.writes]
    source = next((n for n in given if n in build.buffers and build.buffers[n].dtype == dtype), None)
    if source is None or not tensor.numel():
        return False
    stride, dims = 1, list[tuple[Atom, ...]]()
    for size, within in zip(reversed(tensor.shape), reversed(samples)):
        own: tuple[Atom, ...] = (Atom(size, stride),)
        if within:
            parts = Atom(size // within, stride * within), Atom(build.batch or 1, 0, True), Atom(within, stride)
            own = tuple(a for a in parts if a.batch or a.size > 1)
        dims.append(own)
        stride *= size
    name = _named(node)
    width = tensor.shape[-1] if not samples[-1] else 1
    build.buffers[name] = Buffer(tensor.numel(), width, dtype or "")
    build.views[node.name] = View(name, tuple(reversed(dims)))
    count = prod(tensor.shape)
    copies = (((1,), (0, 1), (0, 1)), ((count,), (0, 1), (0, 1)))
    fixed = tensor.detach().cpu().contiguous().reshape(-1)
    build.op_nodes.append(
        OpNode(
            with_role(Role.COPY).name, node, module_name(node), [source], [name],
            tensors={"c0": fixed}, attrs={"parts": copies, "fill": 0.0},
        )
    )  # fmt: skip
    return True
