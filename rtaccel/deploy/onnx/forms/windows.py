"""Stages that join elements: pools, reductions, softmax, norms, interpolation."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.forms.layers import rows_of
from rtaccel.deploy.onnx.functions import activated
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels.pool.windows import windows_of

_REDUCE = {"sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd", "amax": "ReduceMax", "amin": "ReduceMin"}


@form("pool")
def pool(w: Writer, stage: Stage) -> None:
    if stage.attrs.get("planes"):
        w.refuse("is a form that a plan alone has")
    x, y = stage.inputs[0], stage.outputs[0]
    largest = stage.attrs["kind"] == "max"
    regular = _regular(stage)
    if regular is not None:
        sizes, attrs = regular
        channels = x.steps * x.width // prod(sizes)
        rank = len(sizes)
        first = [0, rank + 1, *range(1, rank + 1)]
        t = w.real(x, lambda t: w.node("Transpose", w.shaped(t, 0, *sizes, channels), perm=first))
        t = w.node("MaxPool" if largest else "AveragePool", t, **attrs)
        t = w.node("Transpose", t, perm=[0, *range(2, rank + 2), 1])
        w.put(y, w.as_value(activated(w, stage, t), y))
        return
    windows = windows_of(stage)
    index = windows.index.numpy()
    channels = y.width
    steps = x.steps * x.width // channels
    rows = w.real(x, lambda t: w.shaped(t, 0, steps, channels))
    if (index < 0).any():
        pads = w.constant(np.array([0, 0, 0, 0, 1, 0], np.int64), "pads")
        rows = w.node("Pad", rows, pads, w.number(-np.inf if largest else 0.0))
        index = np.where(index < 0, steps, index)
    taken = w.node("Gather", rows, w.constant(index.astype(np.int64), "steps"), axis=1)
    axis = w.constant(np.array([2], np.int64), "axes")
    t = w.node("ReduceMax" if largest else "ReduceSum", taken, axis, keepdims=0)
    if not largest:
        t = w.node("Div", t, w.constant(windows.divisor.numpy()[:, None], "counts"))
    w.put(y, w.as_value(activated(w, stage, t), y))


def _regular(stage: Stage) -> tuple[tuple[int, ...], dict[str, Any]] | None:
    """(sizes of the image, attributes) where every dimension has windows of one length and stride."""
    if "windows" not in stage.attrs:
        return None
    sizes = tuple(stage.attrs["in_size"])
    starts, ends, kernel, strides = [], [], [], []
    given = stage.attrs["windows"]
    for size, own in zip(sizes, given):
        k = max(len(window) for window in own)
        before = k - len(own[0]) if own[0][0] == 0 else 0
        stride = own[1][0] - own[0][0] + (before if own[0][0] == 0 and len(own) > 1 else 0) if len(own) > 1 else k
        stride = max(1, stride)
        for i, window in enumerate(own):
            first = i * stride - before
            if list(window) != [at for at in range(first, first + k) if 0 <= at < size]:
                return None
        after = (len(own) - 1) * stride + k - before - size
        if after >= k or before >= k:
            return None
        starts.append(before)
        ends.append(max(after, 0))
        kernel.append(k)
        strides.append(stride)
        if (size + before + max(after, 0) - k) // stride + 1 != len(own):
            return None
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": [*starts, *ends]}
    if stage.attrs["kind"] == "max":
        return sizes, attrs
    divisors = stage.attrs.get("divisors", tuple(tuple(len(window) for window in own) for own in given))
    if all(d == k for own, k in zip(divisors, kernel) for d in own):
        return sizes, {**attrs, "count_include_pad": 1}
    if all(d == len(window) for own, rows in zip(divisors, given) for d, window in zip(own, rows)):
        return sizes, {**attrs, "count_include_pad": 0}
    return None


@form("reduce")
def reduce(w: Writer, stage: Stage) -> None:
    x, y = stage.inputs[0], stage.outputs[0]
    dims, kept, place = tuple(stage.attrs["dims"]), int(stage.attrs["kept"]), tuple(stage.attrs["place"])
    t = w.real(x, lambda t: w.strided(t, x.steps * x.width, dims, place))
    if stage.attrs.get("of") == "squares":
        for about in stage.inputs[1:]:
            t = w.node("Sub", t, w.shaped(w.real(about), 0, *dims[:kept], *(1 for _ in dims[kept:])))
        t = w.node("Mul", t, t)
    if any(stride == 0 and size > 1 for size, stride in zip(dims, place[1:])):
        t = w.whole(t, dims)
    axes = w.constant(np.arange(kept + 1, len(dims) + 1), "axes")
    if kept < len(dims):
        t = w.node(_REDUCE[stage.attrs["kind"]], t, axes, keepdims=0)
    w.put(y, w.as_value(activated(w, stage, t), y))


@form("softmax")
def softmax(w: Writer, stage: Stage) -> None:
    w.put(stage.outputs[0], w.node("Softmax", w.real(stage.inputs[0]), axis=-1))


@form("norm")
def norm(w: Writer, stage: Stage) -> None:
    x, width = stage.inputs[0], stage.inputs[0].width
    t = w.real(x)
    if len(stage.inputs) > 1:
        t = w.node("Add", t, w.real(stage.inputs[1]))
    ones = np.ones(width, np.float32)
    scale = w.constant(stage.tensors.get("weight", ones), f"{stage.name}.weight")
    eps = float(stage.attrs["eps"])
    if stage.attrs["kind"] == "layer":
        parts = [w.constant(stage.tensors["bias"], f"{stage.name}.bias")] if "bias" in stage.tensors else []
        y = w.node("LayerNormalization", t, scale, *parts, axis=-1, epsilon=eps)
    else:
        squares = w.node("ReduceMean", w.node("Mul", t, t), w.constant(np.array([-1], np.int64), "axes"), keepdims=1)
        y = w.node("Mul", w.node("Div", t, w.node("Sqrt", w.node("Add", squares, w.number(eps)))), scale)
        if "bias" in stage.tensors:
            y = w.node("Add", y, w.constant(stage.tensors["bias"], f"{stage.name}.bias"))
    y = activated(w, stage, y)
    numbers: tuple[str, str] | None = None
    for role, value in zip(_roles(stage), stage.outputs):
        if role in ("q", "row_scale") and value.quant is None:
            numbers = rows_of(w, y, [-1]) if numbers is None else numbers
            w.put_stored(value, w.node("Cast", numbers[0], to=3) if role == "q" else numbers[1])
        else:
            w.put(value, t if role == "sum" else y)


def _roles(stage: Stage) -> list[str]:
    from rtaccel.kernels.norm.contract import roles

    return list(roles(stage))


@form("grid_sample")
def grid_sample(w: Writer, stage: Stage) -> None:
    """In ONNX images are channels first, and points in the order of torch."""
    a, x, y = stage.attrs, stage.inputs[0], stage.outputs[0]
    sizes, images, last = tuple(a["sizes"]), int(a["images"]), int(a["channels_last"])
    if images != 1:
        w.refuse(f"has {images} images in a sample")
    channels = x.width if last else x.steps
    given = w.real(x, lambda t: w.shaped(t, 0, *((*sizes, channels) if last else (channels, *sizes))))
    rank = len(sizes)
    image = w.node("Transpose", given, perm=[0, rank + 1, *range(1, rank + 1)]) if last else given
    if stage.inputs[1:]:
        grid = w.real(stage.inputs[1])
    else:
        one = w.constant(stage.tensors["grid"].cpu().numpy()[None], f"{stage.name}.grid")
        samples = w.node("Shape", given, start=0, end=1)
        shape = w.node("Concat", samples, w.constant(np.array([1, 1], np.int64), "shape"), axis=0)
        grid = w.node("Expand", one, shape)
    places = w.shaped(grid, 0, *[1] * (rank - 1), -1, rank)
    made = w.node(
        "GridSample", image, places, mode=("linear", "nearest", "cubic")[a["mode"]],
        padding_mode=("zeros", "border", "reflection")[a["padding"]], align_corners=int(a["align"]),
    )  # fmt: skip
    flat = w.shaped(made, 0, channels, -1)
    w.put(y, w.as_value(w.node("Transpose", flat, perm=[0, 2, 1]) if last else flat, y))


@form("resample")
def resample(w: Writer, stage: Stage) -> None:
    """Products with a matrix of the weights."""
    x, y = stage.inputs[0], stage.outputs[0]
    outer, inner = int(stage.attrs["outer"]), int(stage.attrs["inner"])
    columns = inner * x.width
    size = x.steps * x.width // (outer * columns)
    index, weight = stage.attrs["index"], stage.tensors["weight"].cpu().numpy()
    matrix = np.zeros((len(index), size), np.float32)
    for j, taps in enumerate(index):
        for t, at in enumerate(taps):
            matrix[j, at] += weight[j, t]
    rows = w.real(x, lambda t: w.shaped(t, 0, outer, size, columns))
    w.put(y, w.as_value(w.node("MatMul", w.constant(matrix, f"{stage.name}.weight"), rows), y))
