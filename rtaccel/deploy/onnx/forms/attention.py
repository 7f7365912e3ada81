"""Attention, written out."""

from __future__ import annotations

import numpy as np

from rtaccel.core.stage import Stage, Value
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer


@form("attention")
def attention(w: Writer, stage: Stage) -> None:
    a, (q, k, v) = stage.attrs, stage.inputs[:3]
    heads, size = int(a["heads"]), int(a["head_dim"])
    kv_heads = int(a.get("kv_heads", heads))
    t, s = q.steps, k.steps
    query = w.node(
        "Mul", _heads(w, q, int(a.get("q_column", 0)), heads, size), w.number(float(a.get("scale", size**-0.5)))
    )
    key = _repeated(w, _heads(w, k, int(a.get("k_column", 0)), kv_heads, size), heads // kv_heads, s, size)
    value = _repeated(w, _heads(w, v, int(a.get("v_column", 0)), kv_heads, size), heads // kv_heads, s, size)
    scores = w.node("MatMul", query, w.node("Transpose", key, perm=[0, 1, 3, 2]))
    mask = None
    if len(stage.inputs) > 3:
        given = stage.inputs[3]
        mask = w.shaped(w.real(given), 0, *_mask_shape(given.steps, heads, t), s)
    elif "mask" in stage.tensors:
        table = stage.tensors["mask"]
        rows = table.reshape(-1, s).shape[0]
        mask = w.constant(table.reshape(1, *_mask_shape(rows, heads, t), s), f"{stage.name}.mask")
    if mask is not None:
        scores = w.node("Add", scores, mask)
    if a.get("causal"):
        above = np.where(np.arange(s)[None] > np.arange(t)[:, None], -np.inf, 0.0).astype(np.float32)
        scores = w.node("Add", scores, w.constant(above, "causal"))
    weights = w.node("Softmax", scores, axis=-1)
    if a.get("empty_row") != "nan" and mask is not None:  # a query that may see nothing gets zeros
        weights = w.node("Where", w.node("IsNaN", weights), w.number(0.0), weights)
    joined = w.node("Transpose", w.node("MatMul", weights, value), perm=[0, 2, 1, 3])
    w.put(stage.outputs[0], w.as_value(joined, stage.outputs[0]))


def _mask_shape(rows: int, heads: int, t: int) -> tuple[int, int]:
    return (1, 1) if rows == 1 else (1, t) if rows == t else (heads, t)


def _heads(w: Writer, x: Value, column: int, heads: int, size: int) -> str:
    """[M, heads, steps, head_dim] of columns side by side."""

    def apart(t: str) -> str:
        given = w.shaped(t, 0, x.steps, x.width)
        if (column, heads * size) != (0, x.width):
            ends = (w.constant(np.array([n], np.int64), "n") for n in (column, column + heads * size, 2))
            given = w.node("Slice", given, *ends)
        return w.node("Transpose", w.shaped(given, 0, x.steps, heads, size), perm=[0, 2, 1, 3])

    return w.real(x, apart)


def _repeated(w: Writer, x: str, times: int, steps: int, size: int) -> str:
    """Each head of the keys for several of the queries."""
    if times == 1:
        return x
    apart = w.node("Unsqueeze", x, w.constant(np.array([2], np.int64), "axes"))
    spread = w.node("Expand", apart, w.constant(np.array([1, 1, times, 1, 1], np.int64), "shape"))
    return w.node("Reshape", spread, w.constant(np.array([0, -1, steps, size], np.int64), "shape"))
