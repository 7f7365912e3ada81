"""Attention, written out."""

from __future__ import annotations

from math import prod

import numpy as np

from rtaccel.core.stage import Stage, Value
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer


@form("attention")
def attention(w: Writer, stage: Stage) -> None:
    """Several sequences of a sample are a dimension of their own behind the samples."""
    a, (q, k, v) = stage.attrs, stage.inputs[:3]
    heads, size, n = int(a["heads"]), int(a["head_dim"]), int(a.get("sequences", 1))
    kv_heads = int(a.get("kv_heads", heads))
    t, s = q.steps // n, k.steps // n
    lead = (n,) if n > 1 else ()

    def part(x: Value, column: str, count: int) -> str:
        return _heads(w, x, int(a.get(column, 0)), lead, count, size)

    query = w.node("Mul", part(q, "q_column", heads), w.number(float(a.get("scale", size**-0.5))))
    key = _repeated(w, part(k, "k_column", kv_heads), lead, kv_heads, heads // kv_heads, s, size)
    value = _repeated(w, part(v, "v_column", kv_heads), lead, kv_heads, heads // kv_heads, s, size)
    front = [*range(1 + len(lead))]
    first, second, third = (len(front) + i for i in range(3))
    scores = w.node("MatMul", query, w.node("Transpose", key, perm=[*front, first, third, second]))
    mask = None
    if len(stage.inputs) > 3:
        given = stage.inputs[3]
        mask = w.shaped(w.real(given), 0, *_mask_shape(given.steps, lead, heads, t), s)
    elif "mask" in stage.tensors:
        table = stage.tensors["mask"]
        rows = table.reshape(-1, s).shape[0]
        mask = w.constant(table.reshape(1, *_mask_shape(rows, lead, heads, t), s), f"{stage.name}.mask")
    if mask is not None:
        scores = w.node("Add", scores, mask)
    if a.get("causal"):
        above = np.where(np.arange(s)[None] > np.arange(t)[:, None], -np.inf, 0.0).astype(np.float32)
        scores = w.node("Add", scores, w.constant(above, "causal"))
    weights = w.node("Softmax", scores, axis=-1)
    if a.get("empty_row") != "nan" and mask is not None:  # a query that may see nothing gets zeros
        weights = w.node("Where", w.node("IsNaN", weights), w.number(0.0), weights)
    joined = w.node("Transpose", w.node("MatMul", weights, value), perm=[*front, second, first, third])
    w.put(stage.outputs[0], w.as_value(joined, stage.outputs[0]))


def _mask_shape(rows: int, lead: tuple[int, ...], heads: int, t: int) -> tuple[int, ...]:
    if lead and rows == lead[0] * heads * t:
        return (*lead, heads, t)
    return (*([1] * len(lead)), *((1, 1) if rows == 1 else (1, t) if rows == t else (heads, t)))


def _heads(w: Writer, x: Value, column: int, lead: tuple[int, ...], heads: int, size: int) -> str:
    """[M, (sequences,) heads, steps, head_dim] of columns side by side."""

    def apart(t: str) -> str:
        given = w.shaped(t, 0, x.steps, x.width)
        if (column, heads * size) != (0, x.width):
            ends = (w.constant(np.array([n], np.int64), "n") for n in (column, column + heads * size, 2))
            given = w.node("Slice", given, *ends)
        split = w.shaped(given, 0, *lead, x.steps // prod(lead), heads, size)
        front = [*range(1 + len(lead))]
        return w.node("Transpose", split, perm=[*front, len(front) + 1, len(front), len(front) + 2])

    return w.real(x, apart)


def _repeated(w: Writer, x: str, lead: tuple[int, ...], heads: int, times: int, steps: int, size: int) -> str:
    """Each head of the keys for several of the queries."""
    if times == 1:
        return x
    apart = w.node("Unsqueeze", x, w.constant(np.array([2 + len(lead)], np.int64), "axes"))
    shape = np.array([1, *([1] * len(lead)), 1, times, 1, 1], np.int64)
    spread = w.node("Expand", apart, w.constant(shape, "shape"))
    return w.node("Reshape", spread, w.constant(np.array([0, *lead, heads * times, steps, size], np.int64), "shape"))
