"""Layers with weights, and the numbers that go into them: quantize, linear, embedding, products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rtaccel.core.stage import Stage, Value
from rtaccel.core.weight_format import WeightFormat
from rtaccel.deploy.onnx.functions import activated
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer, cpu
from rtaccel.formats import int4
from rtaccel.kernels.sparse_linear.contract import dense_stage

PLANNED = "is a form that a plan alone has"
"""What several stages of a program became; a program has them apart."""

TINY = 2.0**-100
"""Below it a row is zero (rtaccel.formats.int8)."""


@form("quantize")
def quantize(w: Writer, stage: Stage) -> None:
    """With a scale per row: q = round(x * (127 / peak)), as numbers that the layer after it multiplies."""
    q, x = stage.outputs[0], w.real(stage.inputs[0])
    if q.quant is not None:
        w.put(q, x)
        return
    numbers, scale = rows_of(w, x, [-1])
    w.put_stored(q, w.node("Cast", numbers, to=3))
    w.put_stored(stage.outputs[1], scale)


def rows_of(w: Writer, x: str, axes: list[int]) -> tuple[str, str]:
    """(round(x * (127 / peak)) in float32, peak / 127), the peak over the axes."""
    peak = w.node("ReduceMax", w.node("Abs", x), w.constant(np.array(axes, np.int64), "axes"), keepdims=1)
    zero, one = w.node("Less", peak, w.number(TINY)), w.number(1.0)
    inverse = w.node("Where", zero, w.number(0.0), w.node("Div", w.number(127.0), w.node("Where", zero, one, peak)))
    scale = w.node("Where", zero, one, w.node("Div", peak, w.number(127.0)))
    return w.node("Round", w.node("Mul", x, inverse)), scale


def weight_of(w: Writer, stage: Stage, name: str = "weight", turned: bool = False) -> str:
    """A weight [N, ...] as real numbers, by the DequantizeLinear of its format. turned: as [K, N], for a MatMul."""
    weight = stage.tensors[name]
    title = f"{stage.name}.{name}"
    kind = WeightFormat.of(weight)
    if kind is WeightFormat.INT4:
        size = int(stage.attrs["group_size"])
        scales = cpu(stage.tensors["group_scale" if name == "weight" else f"{name}_group_scale"])
        k = stage.inputs[0].width if name == "weight" else _inputs_of(stage, name)
        numbers = int4.unpack(weight.cpu(), k).numpy()
        axis = 0 if turned else 1
        given = w.int4(numbers.T if turned else numbers, title)
        scale = w.constant(np.ascontiguousarray(scales.T if turned else scales), f"{title}_scale", shared=False)
        return w.node("DequantizeLinear", given, scale, axis=axis, block_size=size)
    if kind is WeightFormat.INT8:
        given = w.constant(np.ascontiguousarray(cpu(weight).T) if turned else weight, title, shared=False)
        scale = w.constant(stage.tensors[f"{name}_scale"], f"{title}_scale", shared=False)
        zeros = w.constant(
            np.zeros(len(weight), np.int8), f"{title}_zero_point", shared=False
        )  # some readers want them written out
        return w.node("DequantizeLinear", given, scale, zeros, axis=1 if turned else 0)
    if kind is WeightFormat.FLOAT8:
        return w.refuse("has float8 weights")
    array = cpu(weight)
    return w.constant(np.ascontiguousarray(array.T) if turned else array, title)


def _inputs_of(stage: Stage, name: str) -> int:
    hidden, directions = int(stage.attrs["hidden"]), int(stage.attrs.get("directions", 1))
    if name.startswith("weight_hh"):
        return hidden
    return stage.inputs[0].width if name.startswith("weight_ih_l0") else directions * hidden


def bias_of(w: Writer, stage: Stage) -> str | None:
    """As int32 with the scale of the products, where both are int8: what runtimes of whole numbers take. Else as float32."""
    bias, quant = stage.tensors.get("bias"), stage.inputs[0].quant
    if bias is None:
        return None
    if quant is None or stage.weight_format is not WeightFormat.INT8:
        return w.constant(bias, f"{stage.name}.bias")
    scale = cpu(stage.tensors["weight_scale"]) * np.float32(quant.scale)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        q = np.rint(cpu(bias).astype(np.float64) / scale)
    if not np.isfinite(q).all() or np.abs(q).max(initial=0) >= 2**31:
        return w.constant(bias, f"{stage.name}.bias")
    given = w.constant(q.astype(np.int32), f"{stage.name}.bias", shared=False)
    return w.node("DequantizeLinear", given, w.constant(scale, f"{stage.name}.bias_scale", shared=False), axis=0)


@form("sparse_linear")
def sparse_linear(w: Writer, stage: Stage) -> None:
    """With its zeros: standard operators have no sparse weights."""
    linear(w, dense_stage(stage))


@form("linear", "fused_linear")
def linear(w: Writer, stage: Stage) -> None:
    if stage.attrs.get("input_format", "none") != "none":
        w.refuse(PLANNED)
    x, y = stage.inputs[0], stage.outputs[0]
    if x.dtype == "int8" and x.quant is None:
        w.put(y, activated(w, stage, _of_rows(w, stage)))
        return
    if len(stage.inputs) > 1:
        w.refuse("has a residual")
    bias = bias_of(w, stage)
    # Steps become rows before the numbers are dequantized: what ONNX Runtime makes of a MatMul and an Add over steps puts a
    # Reshape behind, and it then refuses its own graph (1.32: "output_dtype INT8 does not match").
    rows = x.steps > 1 and (stage.weight_format is not WeightFormat.INT4 or x.dtype == "int8")
    given = w.real(x, (lambda t: w.shaped(t, -1, x.width)) if rows else None)
    if stage.weight_format is not WeightFormat.INT4:
        t = w.node("Gemm", given, weight_of(w, stage), *([bias] if bias else []), transB=1)
    else:
        t = w.node("MatMul", given, weight_of(w, stage, turned=True))
        t = t if bias is None else w.node("Add", t, bias)
    t = activated(w, stage, t)
    w.put(y, w.shaped(t, -1, y.steps, y.width) if rows else t)


def _of_rows(w: Writer, stage: Stage) -> str:
    """int8 rows with a scale each: exact sums of whole numbers where the weights are int8."""
    rows, scale = w.stored(stage.inputs[0]), w.stored(stage.inputs[1])
    if stage.weight_format is WeightFormat.INT8:
        weight = w.constant(np.ascontiguousarray(cpu(stage.tensors["weight"]).T), f"{stage.name}.weight")
        t = w.node("Cast", w.node("MatMulInteger", rows, weight), to=1)
        t = w.node(
            "Mul", w.node("Mul", t, scale), w.constant(stage.tensors["weight_scale"], f"{stage.name}.weight_scale")
        )
    else:
        given = w.node("Mul", w.node("Cast", rows, to=1), scale)
        t = w.node("MatMul", given, weight_of(w, stage, turned=True))
    bias = stage.tensors.get("bias")
    return t if bias is None else w.node("Add", t, w.constant(bias, f"{stage.name}.bias"))


@form("embedding")
def embedding(w: Writer, stage: Stage) -> None:
    weight = stage.tensors["weight"]
    index = w.shaped(w.stored(stage.inputs[0]), 0, -1)
    whole = stage.weight_format is WeightFormat.INT8
    table = weight_of(w, stage) if whole else w.constant(cpu(weight), f"{stage.name}.weight")
    w.put(stage.outputs[0], w.as_value(w.node("Gather", table, index, axis=0), stage.outputs[0]))


@form("matmul")
def matmul(w: Writer, stage: Stage) -> None:
    batch, i, j, k = stage.attrs["sizes"]
    given, sides = iter(stage.inputs), []
    for name, dims, place in zip("aw", ((*batch, i, k), (*batch, k, j)), stage.attrs["places"]):
        x = _operand(w, stage, name, given, dims, place)
        sides.append(_full_matrix(w, x, dims, place, name in stage.tensors))
    w.put(stage.outputs[0], w.as_value(w.node("MatMul", *sides), stage.outputs[0]))


def _operand(
    w: Writer, stage: Stage, name: str, given: Iterator[Value], dims: tuple[int, ...], place: tuple[int, ...]
) -> str:
    """The stage's tensor of this name by its place, or where it has none the next value given."""
    if name in stage.tensors:
        tensor = stage.tensors[name]
        flat = w.constant(tensor.reshape(-1), f"{stage.name}.{name}")
        return w.strided(flat, tensor.numel(), dims, place, lead=False)
    value = next(given)
    return w.strided(w.real(value), value.steps * value.width, dims, place)


def _full_matrix(w: Writer, x: str, dims: tuple[int, ...], place: tuple[int, ...], constant: bool) -> str:
    """A MatMul does not broadcast its last two dimensions."""
    if all(stride != 0 or size == 1 for stride, size in zip(place[-2:], dims[-2:])):
        return x
    shape = [1] * (len(dims) - 2 + (not constant)) + list(dims[-2:])
    return w.node("Expand", x, w.constant(np.array(shape, np.int64), "shape"))


@form("pairwise")
def pairwise(w: Writer, stage: Stage) -> None:
    b, i, j, k = (tuple(dims) for dims in stage.attrs["sizes"])
    dims, given, sides = (*b, *i, *j, *k), iter(stage.inputs), []
    before = len(b) + 1
    for name, place in zip("awv", stage.attrs["places"]):
        if name == "a":
            place = (*place[: before + len(i)], *(0 for _ in j), *place[before + len(i) :])
        else:
            place = (*place[:before], *(0 for _ in i), *place[before + len(k) :], *place[before : before + len(k)])
        sides.append(_operand(w, stage, name, given, dims, place))
    off = w.whole(w.node("Sub", *sides[:2]), dims)
    term = w.node("Mul", off, off) if stage.attrs["of"] == "squares" else w.node("Abs", off)
    for weights in sides[2:]:
        term = w.node("Mul", term, weights)
    axes = w.constant(np.arange(len(dims) - len(k) + 1, len(dims) + 1), "axes")
    join = {"sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax"}[stage.attrs["kind"]]
    w.put(stage.outputs[0], w.as_value(w.node(join, term, axes, keepdims=0), stage.outputs[0]))
