"""Convolutions: over one and two dimensions as a plan has them, over three, and over images one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.deploy.onnx.forms.image_rows import Image, image_of
from rtaccel.deploy.onnx.forms.layers import PLANNED, bias_of, rows_of, weight_of
from rtaccel.deploy.onnx.functions import activated
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels._common.geometry import Geometry


@form("conv")
def conv(w: Writer, stage: Stage) -> None:
    """Channels are last in a plan, and first here; whole numbers are turned before they become real ones."""
    if stage.attrs.get("stream"):
        w.refuse("keeps its past inside (a stream)")
    if any(name in stage.attrs for name in ("x_planes", "y_planes", "x_scale")):
        w.refuse(PLANNED)
    g = Geometry.of(stage)
    image = image_of(g)
    x, y, weight = stage.inputs[0], stage.outputs[0], stage.tensors["weight"]
    groups = int(stage.attrs.get("groups", 1))
    channels, outputs = int(weight.shape[1]) * groups, int(weight.shape[0])
    real = x.dtype != "int8"
    given = w.real(x) if real else w.stored(x)
    zero = x.quant.zero_point if x.quant else 0
    if real and stage.weight_format is WeightFormat.INT8:  # a scale for each sample
        numbers, scale = rows_of(w, w.shaped(given, 0, -1), [1])
        given = w.node("Mul", numbers, scale)
    if g.in_steps is not None:
        given = _spread(w, given, zero, g.in_steps, prod(g.in_size), channels, real)
    if image.rows is not None:
        given = _taken(w, given, zero, image.rows, g, channels, real)
        channels *= len(image.rows[0])
    else:
        given = _channels_first(w, given, image, image.sizes, channels)
    if not real:
        assert x.quant is not None
        given = w.dequantized(given, x.quant)
    t = _convolved(w, stage, image, given, channels // groups, groups)
    others = stage.inputs[1:]
    if others:  # a residual, channels last
        other = w.real(others[0])
        if g.out_steps is not None:
            other = _spread(w, other, 0, g.out_steps, prod(g.out_size), outputs, True)
        t = w.node("Add", t, _channels_first(w, other, image, image.out, outputs))
    t = activated(w, stage, t)
    if y.dtype == "int8":
        assert y.quant is not None
        t = w.quantized(t, y.quant)
    rank = len(image.out)
    t = w.node("Transpose", t, perm=[0, *range(2, rank + 2), 1])
    t = w.shaped(t, 0 if image.images == 1 else -1, prod(g.out_size), outputs)
    if g.out_steps is not None:
        t = w.node("Gather", t, w.constant(np.array(g.out_steps, np.int64), "steps"), axis=1)
    w.put_stored(y, w.as_value(t, y))


def _convolved(w: Writer, stage: Stage, image: Image, given: str, per_group: int, groups: int) -> str:
    """The images [n, C, *sizes] as [n, N, *out]."""
    ends = [
        (o - 1) * s + (k - 1) * d + 1 - n - p
        for o, s, k, d, n, p in zip(
            image.out, image.stride, image.kernel, image.dilation, image.sizes, image.padding, strict=True
        )
    ]
    weight, bias = weight_of(w, stage), bias_of(w, stage)
    if tuple(stage.tensors["weight"].shape[2:]) != image.kernel:
        weight = w.shaped(weight, 0, per_group, *image.kernel)
    t = w.node(
        "Conv", given, weight, *([bias] if bias else []), strides=list(image.stride), dilations=list(image.dilation),
        pads=[*image.padding, *(max(e, 0) for e in ends)], group=groups, kernel_shape=list(image.kernel),
    )  # fmt: skip
    full = [
        (n + p + max(e, 0) - (k - 1) * d - 1) // s + 1
        for n, p, e, k, d, s in zip(image.sizes, image.padding, ends, image.kernel, image.dilation, image.stride)
    ]
    if full == list(image.out):
        return t
    rank = len(full)
    zero, size = w.constant(np.zeros(rank, np.int64), "zeros"), w.constant(np.array(image.out, np.int64), "ends")
    return w.node("Slice", t, zero, size, w.constant(np.arange(2, rank + 2), "axes"))


def _channels_first(w: Writer, x: str, image: Image, sizes: Sequence[int], channels: int) -> str:
    """[M, rows, C] -> [M * images, C, *sizes]."""
    apart = w.shaped(x, 0 if image.images == 1 else -1, *sizes, channels)
    rank = len(sizes)
    return w.node("Transpose", apart, perm=[0, rank + 1, *range(1, rank + 1)])


def _taken(
    w: Writer, x: str, zero: int, rows: tuple[tuple[int, ...], ...], g: Geometry, channels: int, real: bool
) -> str:
    """The rows that each row of outputs reads, as further channels of an image of one row: [M * rows out, C * taps, W]."""
    (height, width), taps = g.in_size, len(rows[0])
    index = np.array(rows, np.int64)
    apart = w.shaped(x, 0, height, width * channels)
    if (index < 0).any():
        apart = _with_zeros(w, apart, zero, real)
        index = np.where(index < 0, height, index)
    taken = w.node("Gather", apart, w.constant(index.reshape(-1), "rows"), axis=1)
    turned = w.node("Transpose", w.shaped(taken, -1, taps, width, channels), perm=[0, 3, 1, 2])
    return w.shaped(turned, 0, channels * taps, width)


def _spread(w: Writer, x: str, zero: int, held: Sequence[int], places: int, channels: int, real: bool) -> str:
    """Rows that a value holds at their places in the image; the others are not read, and zero."""
    index = np.full(places, len(held), np.int64)
    index[list(held)] = np.arange(len(held))
    rows = _with_zeros(w, w.shaped(x, 0, len(held), channels), zero, real)
    return w.node("Gather", rows, w.constant(index, "steps"), axis=1)


def _with_zeros(w: Writer, rows: str, zero: int, real: bool) -> str:
    """[M, n, k] with a row of zeros behind."""
    pads = w.constant(np.array([0, 0, 0, 0, 1, 0], np.int64), "pads")
    fill = w.number(0.0) if real else w.constant(np.int8(zero), "zero_point")
    return w.node("Pad", rows, pads, fill)
