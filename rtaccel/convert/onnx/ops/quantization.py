"""Quantized numbers: QDQ pairs, and the operators that compute in them, as floats that hold the same whole numbers.

A value between a QuantizeLinear and what reads it is kept as float32 that holds whole numbers: a compiled model rounds it in
the same pass as its neighbors. It becomes int8 or uint8 where something else reads it. Weights are multiplied out once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx.ops.conv import conv
from rtaccel.convert.onnx.table import op

_LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767), torch.uint16: (0, 65535)}
_READS_FLOATS = {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QLinearAdd",
                 "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearGlobalAveragePool"}  # fmt: skip


def _along(values: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """Scales or zero points so that they broadcast over `x`."""
    if values.numel() == 1:
        return values.reshape(())
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return values.reshape(*(-1 if i == axis % x.dim() else 1 for i in range(x.dim())))


def rounded(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int, low: int, high: int, block_size: int = 0
) -> Tensor:
    """clamp(rint(x / scale) + zero, low, high), in float32; ties to even."""
    q = torch.round(x / _along(scale, x, axis, block_size))
    if zero is not None:
        q = q + _along(zero, x, axis, block_size)
    return torch.clamp(q, low, high)


def as_stored(q: Tensor, *, dtype: torch.dtype) -> Tensor:
    return q.to(dtype)


def floating(zero: Tensor) -> Tensor:
    return zero.float()


@op("QuantizeLinear", builds=True)
@op("QuantizeLinear", domain="com.microsoft", builds=True)
def quantize_linear(
    build: Any, x: Any, scale: Any, zero: Any = None, *, axis: int = 1, saturate: int = 1, block_size: int = 0,
    output_dtype: int = 0, precision: int = 0,
) -> Any:  # fmt: skip
    known = None if zero is None else build.known(zero)
    if zero is not None and known is None:
        build.refuse("has a computed zero point")
    dtype = build.dtype_of(zero) if zero is not None else build.onnx_dtype(output_dtype or 2)
    if zero is not None and build.is_narrow(zero):
        low, high = build.narrow_limits(zero)
    elif dtype in _LIMITS:
        low, high = _LIMITS[dtype]
    else:
        build.refuse(f"quantizes to {dtype}")
    used = None if known is None or not known.any() else build.call(floating, zero)
    q = build.call(rounded, x, scale, used, axis=axis, low=low, high=high, block_size=block_size)
    return q if build.read_by(_READS_FLOATS) else build.call(as_stored, q, dtype=dtype)


def dequantized(q: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int, block_size: int = 0) -> Tensor:
    """(q - zero) * scale."""
    x = q.to(scale.dtype)
    if zero is not None:
        x = x - _along(zero.to(scale.dtype), x, axis, block_size)
    return x * _along(scale, x, axis, block_size)


@op("DequantizeLinear", builds=True)
@op("DequantizeLinear", domain="com.microsoft", builds=True)
def dequantize_linear(
    build: Any, q: Any, scale: Any, zero: Any = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Any:
    known = None if zero is None else build.known(zero)
    used = zero if known is None else build.call(floating, zero) if known.any() else None
    return build.call(dequantized, q, scale, used, axis=axis, block_size=block_size)


def centered(q: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """The whole numbers without their zero point."""
    x = q.float()
    return x if zero is None else x - _along(zero.float(), x, axis)


def _requantized(build: Any, y: Any, scale: Any, zero: Any) -> Any:
    return quantize_linear(build, y, scale, zero)


def bias_term(bias: Tensor, x_scale: Tensor, w_scale: Tensor) -> Tensor:
    return bias.float() * (x_scale * w_scale)


@op("QLinearConv", builds=True)
def qlinear_conv(
    build: Any, x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any, y_scale: Any, y_zero: Any,
    bias: Any = None, **attrs: Any,
) -> Any:  # fmt: skip
    made_bias = None if bias is None else build.call(bias_term, bias, x_scale, w_scale)
    weight = build.call(dequantized, w, w_scale, w_zero, axis=0)
    y = build.call(conv, build.call(dequantized, x, x_scale, x_zero, axis=1), weight, made_bias, **attrs)
    return _requantized(build, y, y_scale, y_zero)


def product(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("QLinearMatMul", builds=True)
def qlinear_matmul(
    build: Any, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, y_scale: Any, y_zero: Any
) -> Any:
    left = build.call(dequantized, a, a_scale, a_zero, axis=-2)
    right = build.call(dequantized, b, b_scale, b_zero, axis=-1)
    return _requantized(build, build.call(product, left, right), y_scale, y_zero)


def whole(x: Tensor) -> Tensor:
    return x.to(torch.int32)


@op("MatMulInteger", builds=True)
def matmul_integer(build: Any, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """Exact while sums stay below 2^24."""
    y = build.call(product, build.call(centered, a, a_zero, axis=-2), build.call(centered, b, b_zero, axis=-1))
    return y if build.read_by({"Cast"}) else build.call(whole, y)


@op("ConvInteger", builds=True)
def conv_integer(build: Any, x: Any, w: Any, x_zero: Any = None, w_zero: Any = None, **attrs: Any) -> Any:
    y = build.call(conv, build.call(centered, x, x_zero), build.call(centered, w, w_zero, axis=0), **attrs)
    return y if build.read_by({"Cast"}) else build.call(whole, y)


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One scale for the whole tensor, from its own range with 0 in it; uint8."""
    low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    q = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return q.to(torch.uint8), scale, zero.to(torch.uint8)


op("DynamicQuantizeLinear")(dynamic_quantize)


@op("QLinearAdd", "QLinearMul", domain="com.microsoft", builds=True)
def qlinear_pair(
    build: Any, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, y_scale: Any, y_zero: Any = None
) -> Any:
    left, right = (
        build.call(dequantized, a, a_scale, a_zero, axis=1),
        build.call(dequantized, b, b_scale, b_zero, axis=1),
    )
    y = build.call(add if build.node.op_type == "QLinearAdd" else multiply, left, right)
    return _requantized(build, y, y_scale, y_zero)


def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def multiply(a: Tensor, b: Tensor) -> Tensor:
    return a * b


@op("MatMulNBits", domain="com.microsoft", builds=True)
def matmul_n_bits(
    build: Any, a: Any, b: Any, scales: Any, zeros: Any = None, order: Any = None, bias: Any = None, *, K: int, N: int,
    bits: int = 4, block_size: int, accuracy_level: int = 0, weight_prepacked: int = 0,
) -> Any:  # fmt: skip
    if order is not None or bits not in (4, 8):
        build.refuse(f"has {bits} bits{' in an order of its own (g_idx)' if order is not None else ''}")
    weight = build.call(unpacked, b, scales, zeros, rows=N, columns=K, bits=bits, block_size=block_size)
    return build.call(layer, a, weight, bias)


def layer(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _nibbles(packed: Tensor, bits: int) -> Tensor:
    """Of bytes, the low half first."""
    if bits == 8:
        return packed.float()
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2).float()


def unpacked(
    packed: Tensor, scales: Tensor, zeros: Tensor | None = None, *, rows: int, columns: int, bits: int, block_size: int
) -> Tensor:
    """Weights [N, K] of blocks along K, each with a scale and a zero point (the middle where none is given)."""
    blocks = -(-columns // block_size)
    q = _nibbles(packed.reshape(rows, blocks, -1), bits)
    zero = torch.full((rows, blocks), 2.0 ** (bits - 1))
    if zeros is not None:
        zero = zeros.reshape(rows, -1) if zeros.is_floating_point() else _nibbles(zeros.reshape(rows, -1), bits)
        zero = zero[:, :blocks]
    made = (q - zero[..., None]) * scales.reshape(rows, blocks, 1)
    return made.reshape(rows, -1)[:, :columns].contiguous()
