"""`torch.ops.rtaccel.conv_w8a8`: the door for torch.compile and torch.export; the modules are the fast way in.

conv_w8a8(x, weight, weight_scale, bias, input_scale, input_zero_point, stride, before, after, dilation, groups) -> y
    The convolution of `rtaccel.nn.conv` on its buffers; x float32 [batch, C, *size] or [C, *size]. before, after: zeros
    at both ends of each spatial dimension. Packs the weights at each call. Inference only: y never requires grad.
    Raises ShapeError for a wrong x, FormatError for wrong weights, UnsupportedProblem where nothing can compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.nn.check import describe
from rtaccel.nn.params.conv import ConvShape, ConvW8A8, PackedConv, check_image

_NAME = "conv_w8a8"
_library = torch.library.Library("rtaccel", "FRAGMENT")
_library.define(
    f"{_NAME}(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? input_scale, "
    "Tensor? input_zero_point, int[] stride, int[] before, int[] after, int[] dilation, int groups) -> Tensor"
)
conv_w8a8: Callable[..., Any] = torch.ops.rtaccel.conv_w8a8.default


def _shape(weight: Tensor, geometry: Sequence[Any]) -> ConvShape:
    if weight.dim() not in (3, 4):
        raise FormatError(_NAME, f"weight: {describe(weight)}", "int8[N, C / groups, *kernel]", "Pass a filter bank.")
    stride, before, after, dilation, groups = geometry
    return ConvShape(
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), tuple(stride), tuple(before), tuple(after),
        tuple(dilation), groups,
    )  # fmt: skip


def _compute(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, x_scale: Tensor | None,
             x_zero: Tensor | None, *geometry: Any) -> Tensor:  # fmt: skip
    shape = _shape(weight, geometry)
    check_image(_NAME, x, shape, weight.device)
    packed = PackedConv(_NAME, shape, ConvW8A8(weight, scale, bias, x_scale, x_zero))
    if x.dim() == len(shape.kernel) + 1:
        return packed.compute(x.unsqueeze(0))[0].contiguous()
    return packed.compute(x).contiguous()


def _fake(x: Tensor, weight: Tensor, scale: Tensor, bias: Any, x_scale: Any, x_zero: Any, *geometry: Any) -> Tensor:
    shape = _shape(weight, geometry)
    spatial = len(shape.kernel)
    out = shape.out_size(_NAME, tuple(x.shape[-spatial:]))
    return x.new_empty((*x.shape[: -spatial - 1], shape.filters, *out))


for _key in ("CPU", "CUDA"):
    _library.impl(_NAME, _compute, _key)
_library.impl(_NAME, torch.library.fallthrough_kernel, "Autograd")  # what is computed below never requires grad
torch.library.register_fake(f"rtaccel::{_NAME}", _fake, lib=_library)
