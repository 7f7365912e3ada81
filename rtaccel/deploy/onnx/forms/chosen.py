"""What is chosen while the model runs: elements by computed indices, read or written, and the first of an order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from rtaccel.core.stage import Stage, Value
from rtaccel.deploy.onnx.forms.movement import picked
from rtaccel.deploy.onnx.forms.whole_numbers import number
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels._common.strides import elements
from rtaccel.kernels.order import contract as order_contract
from rtaccel.kernels.put import contract as put_contract
from rtaccel.kernels.take import contract as take_contract


@form("take")
def take(w: Writer, stage: Stage) -> None:
    """Where each line starts, and from there the elements of the line: indices into x as one row."""
    names, places, sizes = take_contract.geometry(stage)
    queue, y = iter(stage.inputs), stage.outputs[0]
    x = _row(w, stage, "x", queue, sizes)
    at = _elements(w, stage, names[1:], places["x"], places, queue, sizes)
    if "x" in stage.tensors:
        made = w.node("Gather", x, at, axis=0)
    else:
        made = w.node("GatherElements", x, _for_samples_of(w, x, at, prod(stage.attrs["dims"])), axis=1)
    w.put(y, w.as_value(made, y))


_REDUCTIONS = {"set": "none", "add": "add", "prod": "mul", "amax": "max", "amin": "min"}


@form("put")
def put(w: Writer, stage: Stage) -> None:
    """Of several elements for one place ONNX Runtime takes the last, as here; ONNX leaves it open."""
    names, places, sizes = put_contract.geometry(stage)
    queue, y, (dims, source, target) = iter(stage.inputs), stage.outputs[0], stage.attrs["whole"]
    fixed = {name for name in ("x", "src") if name in stage.tensors}
    x = _row(w, stage, "x", queue, sizes)
    whole = placed(w, w.whole(w.strided(x, sizes["x"][0], dims, source, lead="x" not in fixed), dims), dims, target)
    at = _elements(w, stage, names[1:-1], places["y"], places, queue, sizes)
    own = _row(w, stage, "src", queue, sizes)
    lines = tuple(stage.attrs["dims"])
    own = w.whole(w.strided(own, sizes["src"][0], lines, places["src"], lead="src" not in fixed), lines)
    given = w.real(stage.inputs[0])
    whole = _for_samples_of(w, given, w.shaped(whole, -1, y.steps * y.width), y.steps * y.width)
    own, at = (_for_samples_of(w, given, t, prod(lines)) for t in (w.shaped(own, -1, prod(lines)), at))
    made = w.node("ScatterElements", whole, at, own, axis=1, reduction=_REDUCTIONS[stage.attrs["mode"]])
    w.put(y, w.as_value(made, y))


def _row(w: Writer, stage: Stage, name: str, queue: Iterator[Value], sizes: Mapping[str, tuple[int, int, str]]) -> str:
    """An operand as [M, elements], or a constant one as [elements]."""
    if name in stage.tensors:
        return w.constant(stage.tensors[name].reshape(-1), f"{stage.name}.{name}")
    return w.shaped(w.real(next(queue)), 0, sizes[name][0])


def _elements(
    w: Writer, stage: Stage, names: Sequence[str], own: tuple[int, ...], places: Mapping[str, tuple[int, ...]],
    queue: Iterator[Value], sizes: Mapping[str, tuple[int, int, str]],
) -> str:  # fmt: skip
    """[M or 1, elements of all lines]: what the indices named lead to, where an index of 0 leads to `own`."""
    dims, kept = tuple(stage.attrs["dims"]), stage.attrs["kept"]
    start = ""
    for name, size, stride in zip(names, stage.attrs["sizes"], stage.attrs["strides"]):
        index = _row(w, stage, name, queue, sizes)
        place = (*places[name][: kept + 1], 0)
        index = w.strided(index, sizes[name][0], (*dims[:kept], 1), place, lead=name not in stage.tensors)
        if stage.attrs["negative"]:
            below = w.node("Less", index, number(w, 0))
            index = w.node("Where", below, w.node("Add", index, number(w, size)), index)
        index = index if stride == 1 else w.node("Mul", index, number(w, stride))
        start = w.node("Add", start, index) if start else index
    base = elements(dims, own).reshape(*dims[:kept], prod(dims[kept:]))
    at = w.node("Add", start, w.constant(base.astype(np.int64), f"{stage.name}.at"))
    return w.shaped(at, -1, prod(dims))


def _for_samples_of(w: Writer, given: str, rows: str, n: int) -> str:
    """rows [M or 1, n] as [M, n], for as many samples as `given` has."""
    batch = w.node("Shape", given, start=0, end=1)
    shape = w.node("Concat", batch, w.constant(np.array([n], np.int64), "shape"), axis=0)
    return str(w.node("Expand", rows, shape))


@form("order")
def order(w: Writer, stage: Stage) -> None:
    """Where a NaN comes is what the runtime makes of it."""
    x, attrs = stage.inputs[0], stage.attrs
    dims = tuple(attrs["dims"])
    order_contract.lower(stage)  # what it refuses is refused here too
    place, target = (tuple(p) for p in attrs["places"])
    seen = w.whole(w.strided(w.real(x), x.steps * x.width, dims, place), dims)
    k = w.constant(np.array([attrs["k"]], np.int64), "k")
    values, indices = w.node("TopK", seen, k, outputs=2, axis=len(dims), largest=int(attrs["descending"]), sorted=1)
    found = {"values": values, "indices": indices}
    for name, y in zip(attrs["gives"].split(","), stage.outputs):
        w.put(y, w.as_value(placed(w, found[name], (*dims[:-1], attrs["k"]), target), y))


def placed(w: Writer, made: str, dims: tuple[int, ...], place: tuple[int, ...]) -> str:
    """[M, *dims] as a row, each element where a place has it."""
    index = np.empty(prod(dims), np.int64)
    index[elements(dims, place).reshape(-1)] = np.arange(len(index))
    return picked(w, made, len(index), index)
