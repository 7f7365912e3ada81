"""Results of a compiled model as its file has them: where they lie, and in the dtype that the model returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import Text
from rtaccel.convert.passes.program import Program, SubgraphStep
from rtaccel.core.registry import with_role
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.deploy.container import Part

Chosen = tuple[Stage, str]

MAX_DIMS = 8
"""Dimensions of a tensor that a file describes."""

CONSTANTS = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Dtypes of constant results, as safetensors names them."""


@dataclass(frozen=True)
class Computed:
    """A result of the plan. port: what holds it. samples: its dimension that is the samples. view: of a result that is copied
    once more, which elements of the port's value it has; () where these are all of them, in their order. joined: as many
    dimensions of what is held, with the samples at their place, are one where it is returned."""

    port: GraphIO
    samples: int
    copied: bool = False
    view: tuple[tuple[int, ...], tuple[int, ...]] | tuple[()] = ()
    joined: int = 1


@dataclass(frozen=True)
class Constant:
    """A result that is the same in every call: a tensor, a number, a truth value, a text, or None."""

    value: Any

    def part(self) -> Part | None:
        """Of the file; None for what is no tensor."""
        if not isinstance(self.value, Tensor):
            return None
        dense = self.value.detach().cpu().contiguous()
        data = dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""
        return Part(CONSTANTS[dense.dtype], tuple(dense.shape), data)


def as_returned(
    pairs: Sequence[Chosen], results: Sequence[Computed], names: Sequence[str], program: Program
) -> tuple[list[Chosen], list[GraphIO]]:
    """The stages (each with its kernel) and results, where those that are kept in another dtype get that of the model: int32 is
    kept as int64, truth values as float32. The stage that computes one writes it so, where no other reads what it wrote. What is
    returned a second time, or is an input, is copied.

    A result has the rows that its stage writes: a plan may take an image as planes where the program has rows of channels."""
    made, ports = list(pairs), []
    written = {value.name: value for stage, _ in pairs for value in stage.outputs}
    copies = [i for i, result in enumerate(results) if result.copied]
    for i in copies:
        port = results[i].port
        port = replace(port, value=written.get(port.value.name, port.value))
        stage, port = _copy(port, results[i].view, f"{port.value.name}:again{i}")
        made.append((stage, ""))
        results = [*results[:i], replace(results[i], port=port), *results[i + 1 :]]
        written[port.value.name] = port.value
    for name, result in zip(names, results):
        port = replace(result.port, value=written.get(result.port.value.name, result.port.value))
        dtype = program.casts.get(name)
        kept = None if dtype is None else str(dtype).removeprefix("torch.")
        if kept is not None and kept != port.value.dtype:
            value = replace(port.value, name=f"{port.value.name}:returned", dtype=kept)
            made = _written_as(made, port.value, value)
            port = replace(port, value=value)
        ports.append(port)
    return made, ports


def _copy(port: GraphIO, view: tuple[Any, ...], name: str) -> tuple[Stage, GraphIO]:
    """A stage that writes a value once more, or elements of it, and what holds them."""
    kept = port.value
    if view:
        sizes, place = view
        value = Value(name, sizes[-1], kept.dtype, steps=max(prod(sizes[:-1]), 1))
    else:
        sizes, place = (kept.steps * kept.width,), (0, 1)
        value = replace(kept, name=name, quant=None)
    made = replace(port, value=value)
    if kept.dtype in ("float32", "int64"):
        target = layout.dense("", sizes, None)
        strides = tuple(atom.stride for dim in target.dims for atom in dim)
        attrs: dict[str, Any] = {"parts": ((tuple(sizes), tuple(place), (0, *strides)),), "fill": 0.0}
        return Stage(with_role(Role.COPY).name, "result", (kept,), (value,), {}, attrs), made
    program = ("truth x0",) if kept.dtype == "bool" else ("copy x0",)
    attrs = {"program": program, "dims": tuple(sizes), "places": (tuple(place),)}
    return Stage(with_role(Role.WHOLE).name, "result", (kept,), (value,), {}, attrs), made


def _written_as(pairs: list[Chosen], kept: Value, value: Value) -> list[Chosen]:
    op = with_role(Role.WHOLE).name
    read = any(kept.name == v.name for stage, _ in pairs for v in stage.inputs)
    place = next(i for i, (stage, _) in enumerate(pairs) if any(kept.name == v.name for v in stage.outputs))
    stage, kernel = pairs[place]
    if stage.op == op and not read:
        return [*pairs[:place], (replace(stage, outputs=(value,)), kernel), *pairs[place + 1 :]]
    count = kept.steps * kept.width
    program = ("truth x0",) if value.dtype == "bool" else ("copy x0",)
    attrs = {"program": program, "dims": (count,), "places": ((0, 1),)}
    return [*pairs, (Stage(op, stage.name, (kept,), (value,), {}, attrs), "")]


def otherwise(program: Program, source: SubgraphStep) -> list[str]:
    """The results that no file has: they are neither computed by the plan, nor the same in every call."""
    found = results_of(program, source)
    return [f"number {i} ({name})" for i, (name, one) in enumerate(zip(program.outputs, found)) if one is None]


def results_of(program: Program, source: SubgraphStep) -> list[Computed | Constant | None]:
    """In the order in which they are returned; None for one that no file has."""
    found: list[Computed | Constant | None] = []
    taken: set[str] = set()
    for name in program.outputs:
        one = _result(program, name, source)
        if isinstance(one, Computed) and not one.copied and one.port.value.name in taken:
            one = replace(one, copied=True)
        if isinstance(one, Computed):
            taken.add(one.port.value.name)
        found.append(one)
    return found


def _result(program: Program, name: Any, source: SubgraphStep) -> Computed | Constant | None:
    """The state of a recurrent layer lies samples first, [batch, layers, hidden], and is returned layers first."""
    if not isinstance(name, str):
        value = name.value if isinstance(name, Text) else name
        return Constant(value) if value is None or isinstance(value, (bool, int, float, str)) else None
    made = dict(zip(source.writes, source.group.outputs))
    given = {name: port for name, port in zip(source.reads, source.group.inputs) if _copies(port)}
    if name in made and name not in program.casts:
        return Computed(made[name], 0)  # the shape of what is returned, whatever view the value of this name had
    if name in given:
        return Computed(given[name], 0, copied=True)
    constant = program.constants.get(name)
    if constant is not None and constant.dtype in CONSTANTS:
        return Constant(constant)
    view = program.views.get(name)
    port = None if view is None else made.get(view.base) or given.get(view.base)
    if view is None or port is None:
        return None
    copied = view.base not in made
    skipped, joined = max(port.lead - 1, 0), 1
    parted = _parted(view)
    if parted is not None:
        view, joined = parted, 3 if parted.batch_dim else max(port.lead, 2)
        skipped = min(skipped, 1)
    dim, shape, dims = view.batch_dim, view.shape, view.dims
    if dim is not None:
        shape = (*shape[:dim], *shape[dim + 1 :])
        dims = (dims[dim], *dims[:dim], *dims[dim + 1 :])
    samples = None if dim is None else view.shape[dim]
    if (dim is None) != (port.lead == 0) or (port.lead > 1 and dim):
        return None
    trailing = shape[skipped:]
    whole = prod(trailing) == port.value.steps * port.value.width
    whole = whole and (joined == 1 or not skipped or prod(shape[:skipped]) == prod(port.middle))
    if whole and layout.same_layout(View(view.base, dims, view.offset), layout.dense(view.base, shape, samples)):
        return Computed(replace(port, trailing=trailing), dim or 0, copied, joined=joined)
    found = _elements(port, dims[port.lead :], shape, view.offset, dim or 0)
    return found if found is None else replace(found, joined=joined)


def _parted(view: View) -> View | None:
    """A view whose first dimension has the samples and others within or around them, with the samples as one of their own. None
    for any other."""
    if not 0 < len(view.dims) < MAX_DIMS or not view.dims[0] or view.batch_dim is not None:
        return None  # a dimension of size 1 may have no parts
    first, others = view.dims[0], view.dims[1:]
    place = next((i for i, atom in enumerate(first) if atom.batch), None)
    if place is None or any(atom.batch for dim in (first[place + 1 :], *others) for atom in dim):
        return None
    outer = (first[:place],) if place else ()
    dims = (*outer, (first[place],), first[place + 1 :], *others)
    return View(view.base, dims, view.offset) if len(dims) <= MAX_DIMS else None


def _copies(port: GraphIO) -> bool:
    """Whether there is a stage that writes such an input again."""
    return port.value.dtype not in ("float16", "bfloat16", "int8")


def _elements(
    port: GraphIO, dims: Sequence[Sequence[layout.Atom]], shape: tuple[int, ...], offset: int, samples: int
) -> Computed | None:
    """Some elements of each sample, in another order."""
    atoms = [atom for dim in dims for atom in dim if atom.size != 1]
    if port.lead > 1 or any(atom.batch for atom in atoms) or not prod(shape):
        return None
    sizes = tuple(atom.size for atom in atoms) or (1,)
    place = (offset, *(atom.stride for atom in atoms)) if atoms else (offset, 1)
    return Computed(replace(port, trailing=shape), samples, True, (sizes, place))
