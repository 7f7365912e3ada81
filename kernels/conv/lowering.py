"""What kernels read of a convolution: its geometry and numbers as attributes, checked against its weights and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.stage import QParams, Stage
from rtaccel.formats.int8 import inverse_scale
from rtaccel.kernels._common import activations
from rtaccel.kernels._common.geometry import Geometry
from rtaccel.kernels.conv import planes, winograd

MAX_K = 65_536
"""Taps times channels of a group for int8: |acc| <= K * 255 * 127 stays below 2^31."""


def lower(stage: Stage) -> Mapping[str, Any]:
    """Geometry as plain numbers; for int8 multiplier, offset and scales, so that every backend uses the same bits.

    Raises ShapeError for attributes, weights and values that do not fit each other; UnsupportedProblem for sums that
    int32 cannot hold, and for what has no meaning in a stream.
    """
    if planes.used(stage):
        return {**lower(planes.by_position(stage)), **planes.marks(stage)}
    geometry, groups = _checked(stage)
    weight = stage.tensors["weight"]
    n = weight.shape[0]
    bias = stage.tensors.get("bias")
    act = stage.attrs.get("activation", "none")
    low: dict[str, Any] = {
        "activation": act,
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
        "weight": weight,
        "groups": groups,
        "stream": int(is_stream(stage)),
        "residual": int(has_other(stage)),
        "winograd": winograd.tile(stage),
        **({"ticks": 1} if has_ticks(stage) else {}),
    }
    for name in ("in_size", "kernel", "stride", "padding", "dilation", "out_size"):
        low[f"{name}_y"], low[f"{name}_x"] = getattr(geometry, name)
    for name in ("in_steps", "out_steps"):
        if getattr(geometry, name) is not None:
            low[name] = getattr(geometry, name)
    low["out_rows"], low["tap_rows"] = geometry.row_starts, geometry.row_taps
    low["by_rows"] = int(geometry.out_rows is not None)
    if weight.dtype == torch.float32:
        return {**low, "bias": weight.new_zeros(n) if bias is None else bias, "dynamic": 0}
    quant, y = input_quant(stage), stage.outputs[0]
    multiplier = stage.tensors["weight_scale"].clone()
    offset = torch.zeros_like(multiplier) if bias is None else bias.clone()
    if quant is not None:
        multiplier *= _float32(quant.scale)
    inv_scale = _float32(1.0)
    if y.quant is not None:
        inv_scale = _float32(inverse_scale(y.quant))
        if act in activations.HOMOGENEOUS and not has_other(stage):
            multiplier, offset, inv_scale = multiplier * inv_scale, offset * inv_scale, _float32(1.0)
    return {
        **low,
        "multiplier": multiplier,
        "offset": offset,
        "dynamic": int(quant is None),
        "x_inv_scale": 0.0 if quant is None else inverse_scale(quant),
        "x_zero_point": 0 if quant is None else quant.zero_point,
        "y_inv_scale": float(inv_scale),
        "y_zero_point": 0 if y.quant is None else y.quant.zero_point,
    }


def _float32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def is_stream(stage: Stage) -> bool:
    return bool(stage.attrs.get("stream", 0))


def has_ticks(stage: Stage) -> bool:
    return is_stream(stage) and bool(stage.attrs.get("ticks", 0))


def takes_mark(stage: Stage) -> bool:
    return bool(stage.attrs.get("takes_mark", 0))


def gives_mark(stage: Stage) -> bool:
    return bool(stage.attrs.get("gives_mark", 0))


def has_other(stage: Stage) -> bool:
    return len(stage.inputs) > (2 + has_ticks(stage) if is_stream(stage) else 1) + takes_mark(stage)


def channels(stage: Stage) -> int:
    return int(stage.tensors["weight"].shape[1]) * int(stage.attrs.get("groups", 1))


def input_quant(stage: Stage) -> QParams | None:
    """What the int8 numbers of x mean; None where they are found from each sample."""
    x = stage.inputs[0]
    if x.dtype == "int8":
        return x.quant
    if "x_scale" in stage.attrs:
        return QParams(float(stage.attrs["x_scale"]), int(stage.attrs["x_zero_point"]))
    return None


def _checked(stage: Stage) -> tuple[Geometry, int]:
    def require(ok: bool, got: object, expected: str) -> None:
        if not ok:
            raise ShapeError("conv", got, expected, "Correct the stage.")

    weight, x, y = stage.tensors["weight"], stage.inputs[0], stage.outputs[0]
    groups = int(stage.attrs.get("groups", 1))
    geometry = _stream_geometry(stage) if is_stream(stage) else Geometry.of(stage)
    rows = 1 if is_stream(stage) or geometry.in_steps is not None else geometry.in_size[0] * geometry.in_size[1]
    c = x.width // rows if x.steps == 1 else x.width
    require(groups >= 1 and c % groups == 0, f"C = {c} in {groups} groups", "groups that divide C")
    require(y.width % groups == 0, f"N = {y.width} in {groups} groups", "groups that divide N")
    shape = (y.width, c // groups, *geometry.kernel)
    require(tuple(weight.shape) == shape, f"weight {list(weight.shape)}", f"{list(shape)}")
    k = weight[0].numel()
    if weight.dtype == torch.int8 and k > MAX_K:
        raise UnsupportedProblem(
            "conv", f"{k} products for one output", f"at most {MAX_K}, where int32 sums cannot overflow",
            "Keep the layer float32.",
        )  # fmt: skip
    if weight.dtype != torch.int8 and (x.dtype != "float32" or y.dtype != "float32"):
        raise UnsupportedProblem("conv", f"float32 weights, {x.dtype} to {y.dtype}", "float32 values", "Quantize both.")
    require(x.dtype != "int8" or x.quant is not None, "int8 x without a scale", "a static QParams")
    marks = [*stage.inputs[-1:] * takes_mark(stage), *stage.outputs[-1:] * gives_mark(stage)]
    require(all((v.dtype, v.shape) == ("float32", (1,)) for v in marks), f"marks {marks}", "float32 [1]")
    taken = not takes_mark(stage) or (x.dtype, y.dtype) == ("int8", "float32")
    require(taken, f"{x.dtype} to {y.dtype} by a mark", "int8 to float32")
    given = not gives_mark(stage) or (x.dtype == "float32" and "x_scale" in stage.attrs)
    require(given, f"a mark of {x.dtype} x", "float32 x that the stage rounds")
    if has_other(stage):
        other = stage.inputs[-1 - takes_mark(stage)]
        require(
            (other.dtype, other.steps, other.width) == ("float32", y.steps, y.width),
            f"other {other.dtype}[{other.steps}, {other.width}]",
            f"float32[{y.steps}, {y.width}], as y",
        )
    return geometry, groups


def _stream_geometry(stage: Stage) -> Geometry:
    kernel, dilation = stage.attrs["kernel"], stage.attrs.get("dilation", (1, 1))
    if kernel[0] != 1 or tuple(stage.attrs.get("stride", (1, 1))) != (1, 1):
        raise UnsupportedProblem("conv", f"a stream with kernel {kernel}", "kernel (1, k) and stride 1", "Use windows.")
    if stage.tensors["weight"].dtype == torch.int8 and input_quant(stage) is None:
        raise UnsupportedProblem(
            "conv", "a stream quantized dynamically", "a static range: a stream has no whole sample to look at",
            "Give calibration data.",
        )  # fmt: skip
    rows = (kernel[1] - 1) * dilation[1] + 1
    if (
        len(stage.inputs) < 2
        or len(stage.outputs) != 2
        or any(v.steps != rows for v in (stage.inputs[1], stage.outputs[1]))
    ):
        raise ShapeError("conv", "a stream without its ring", f"a ring of {rows} rows, in and out", "Add it.")
    if has_ticks(stage) and [(v.dtype, v.steps, v.width) for v in stage.inputs[2:3]] != [("int64", 1, 1)]:
        raise ShapeError("conv", "a stream without the number of its call", "int64 [1] behind the ring", "Add it.")
    return Geometry((1, rows), kernel, (1, 1), (0, 0), dilation, (1, 1))
