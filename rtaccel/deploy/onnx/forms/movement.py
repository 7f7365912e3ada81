"""Stages that move elements: copies by indices and strides, joins."""

from __future__ import annotations

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels._common.strides import elements


def picked(w: Writer, x: str, size: int, index: np.ndarray) -> str:
    """[M, len(index)] elements of [M, size]; as a Reshape or Transpose where the order is that."""
    count = len(index)
    if count == size and (index == np.arange(size)).all():
        return w.shaped(x, 0, size)
    if count == size and size > 1:
        rows = int(index[1] - index[0])
        if rows > 1 and size % rows == 0 and (index == np.arange(size).reshape(-1, rows).T.reshape(-1)).all():
            return w.shaped(w.node("Transpose", w.shaped(x, 0, size // rows, rows), perm=[0, 2, 1]), 0, size)
    return w.node("Gather", w.shaped(x, 0, size), w.constant(index.astype(np.int64), "elements"), axis=1)


@form("rearrange")
def rearrange(w: Writer, stage: Stage) -> None:
    x, y = stage.inputs[0], stage.outputs[0]
    if "rows" in stage.attrs:
        rows = np.array(stage.attrs["rows"], np.int64)
        index = (rows[:, None] * x.width + np.arange(x.width)[None]).reshape(-1)
    else:
        index = np.array(stage.attrs["index"], np.int64)
    w.put_stored(y, w.as_value(picked(w, w.stored(x), x.steps * x.width, index), y))


@form("concat")
def concat(w: Writer, stage: Stage) -> None:
    w.put(stage.outputs[0], w.node("Concat", *(w.real(v) for v in stage.inputs), axis=-1))


@form("assemble")
def assemble(w: Writer, stage: Stage) -> None:
    """All operands side by side, and an index of each element of the result; what nothing covers is one element more."""
    y = stage.outputs[0]
    kind = np.float32 if y.dtype == "float32" else np.int64
    count = y.steps * y.width
    sources = [w.shaped(w.stored(v), 0, v.steps * v.width) for v in stage.inputs]
    sizes = [v.steps * v.width for v in stage.inputs]
    index = np.full(count, -1, np.int64)
    constants = [stage.tensors[f"c{i}"].reshape(-1) for i in range(len(stage.tensors))]
    sizes += [c.numel() for c in constants]
    for start, (dims, source, target) in zip(np.cumsum([0, *sizes[:-1]]), stage.attrs["parts"]):
        dims, source, target = (
            (tuple(dims), tuple(source), tuple(target)) if dims else ((1,), (*source, 0), (*target, 0))
        )
        index[elements(dims, target).reshape(-1)] = start + elements(dims, source).reshape(-1)
    total = sum(sizes)
    uncovered = (index < 0).any()
    index[index < 0] = total
    tail = [c.detach().cpu().numpy().astype(kind) for c in constants]
    tail += [np.array([stage.attrs.get("fill", 0)], kind)] if uncovered else []
    if tail:
        row = np.concatenate(tail)
        one = w.node("Slice", sources[0], *(w.constant(np.array([n], np.int64), "n") for n in (0, 1, 1)))
        shape = w.node("Concat", w.node("Shape", one, end=1), w.constant(np.array([len(row)], np.int64), "n"), axis=0)
        sources.append(w.node("Expand", w.constant(row, f"{stage.name}.constants"), shape))
    joined = sources[0] if len(sources) == 1 else w.node("Concat", *sources, axis=1)
    w.put_stored(y, w.as_value(picked(w, joined, total + int(uncovered), index), y))
