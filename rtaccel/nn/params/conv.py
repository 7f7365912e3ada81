"""The numbers of an int8 convolution: what a state dict stores, what they must look like, and the plan they make.

weight int8 [N, C / groups, *kernel] in -127..127, weight_scale float32 [N], bias float32 [N] or None;
static activations add input_scale float32 [] and input_zero_point int32 [], dynamic ones have neither.

Computed as in the contract of `conv`: static with one scale per tensor, dynamic with one per sample.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_streams import on_gpu_of
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.kernels.conv.lowering import MAX_K
from rtaccel.nn.check import dense, describe
from rtaccel.nn.params.linear_w8a8 import LinearW8A8
from rtaccel.plan.choose import Choice
from rtaccel.plan.group import Executable, Subgraph, plan_group

Ints = tuple[int, ...]


@dataclass(frozen=True)
class ConvShape:
    """A convolution but for its numbers; every tuple has one entry for each spatial dimension (one or two).

    before, after: zeros added at both ends of each.
    """

    channels: int
    filters: int
    kernel: Ints
    stride: Ints
    before: Ints
    after: Ints
    dilation: Ints
    groups: int

    def check(self, op: str) -> None:
        """Raises UnsupportedProblem for a convolution that cannot be."""
        if self.groups < 1 or self.channels % self.groups or self.filters % self.groups:
            got = f"{self.channels} channels and {self.filters} filters in {self.groups} groups"
            raise UnsupportedProblem(op, got, "groups that divide both", "Choose another number of groups.")
        if min(self.channels, self.filters, *self.kernel, *self.stride, *self.dilation) < 1:
            raise UnsupportedProblem(op, str(self), "sizes of at least 1", "Correct the layer.")
        if self.products > MAX_K:
            raise UnsupportedProblem(
                op, f"{self.products} products for one output", f"at most {MAX_K}, where int32 sums cannot overflow",
                "Keep the layer float32.",
            )  # fmt: skip

    @property
    def products(self) -> int:
        return self.channels // max(self.groups, 1) * torch.Size(self.kernel).numel()

    @property
    def weight_shape(self) -> Ints:
        return (self.filters, self.channels // self.groups, *self.kernel)

    def out_size(self, op: str, size: Ints) -> Ints:
        """Raises ShapeError where the padded input is smaller than the kernel."""
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation)]
        padded = [n + b + a for n, b, a in zip(size, self.before, self.after)]
        if any(n < s for n, s in zip(padded, spans)) or min(size) < 1:
            got, least = (
                f"an input of size {list(size)}",
                [s - b - a for s, b, a in zip(spans, self.before, self.after)],
            )
            raise ShapeError(op, got, f"at least {least}: the kernel must fit in once", "Give it a longer window.")
        return tuple((n - s) // t + 1 for n, s, t in zip(padded, spans, self.stride))


@dataclass(frozen=True, eq=False)
class ConvW8A8:
    """Tensors of one layer, not checked when made: `validate` does that."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None

    def _matrix(self, shape: ConvShape) -> LinearW8A8:
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weight"}
        return LinearW8A8(self.weight.reshape(shape.filters, -1), **rest)

    def validate(self, op: str, shape: ConvShape) -> None:
        """Raises FormatError or UnsupportedProblem for numbers that do not make this layer."""
        shape.check(op)
        if not isinstance(self.weight, Tensor) or tuple(self.weight.shape) != shape.weight_shape:
            expected = f"int8{list(shape.weight_shape)}"
            raise FormatError(op, f"qweight: {describe(self.weight)}", expected, "Take a weight of this layer.")
        self._matrix(shape).validate(op)

    def group(self, shape: ConvShape, size: Ints, out: Ints) -> Subgraph:
        """The one stage, for x [M, *size, C] and y [M, *out, N], channels last."""
        one = len(size) == 1

        def pair(values: Ints, first: int) -> Ints:
            return (first, *values) if one else values

        x = Value("x", shape.channels, steps=torch.Size(size).numel())
        y = Value("y", shape.filters, steps=torch.Size(out).numel())
        attrs: dict[str, Any] = {
            "in_size": pair(size, 1), "kernel": pair(shape.kernel, 1), "stride": pair(shape.stride, 1),
            "padding": pair(shape.before, 0), "dilation": pair(shape.dilation, 1), "out_size": pair(out, 1),
            "groups": shape.groups,
        }  # fmt: skip
        if self.input_scale is not None and self.input_zero_point is not None:
            attrs |= {"x_scale": float(self.input_scale), "x_zero_point": int(self.input_zero_point)}
        weight = self.weight.unsqueeze(2) if one else self.weight
        bias = torch.zeros_like(self.weight_scale) if self.bias is None else self.bias
        tensors = {"weight": weight, "weight_scale": self.weight_scale, "bias": bias}
        ports = GraphIO(x, 1, (*size, shape.channels)), GraphIO(y, 1, (*out, shape.filters))
        return Subgraph((Stage("conv", "conv", (x,), (y,), tensors, attrs),), (ports[0],), (ports[1],))


class PackedConv:
    """A layer's plans, one for each size of input it has been called with; made on first use.

    Raises what `ConvW8A8.validate` raises. Later changes of the tensors it was made from are not seen.
    """

    def __init__(self, op: str, shape: ConvShape, params: ConvW8A8) -> None:
        params.validate(op, shape)
        tensors = (getattr(params, f.name) for f in fields(params))
        self._params = ConvW8A8(*(None if t is None else dense(t) for t in tensors))  # type: ignore[arg-type]
        self._op, self._shape = op, shape
        self._plans: dict[Ints, Executable] = {}
        self.choices: list[Choice] = []

    def plan(self, size: Ints) -> Executable:
        found = self._plans.get(size)
        if found is None:
            out = self._shape.out_size(self._op, size)
            with on_gpu_of(self._params.weight), torch.device("cpu"):
                group = self._params.group(self._shape, size, out)
                found, self.choices = plan_group(group, 1, self._params.weight.device.type)
            self._plans[size] = found
        return found

    def compute(self, x: Tensor) -> Tensor:
        """y [M, N, *out] of x [M, C, *size] float32; y's memory is channels last."""
        x = x.detach().as_subclass(Tensor).resolve_conj().resolve_neg()
        rows = x.movedim(1, -1).contiguous()
        if rows.data_ptr() % 4:
            rows = rows.clone()
        result = self.plan(tuple(x.shape[2:])).call((rows,))
        if not isinstance(result, Tensor):
            raise UnsupportedProblem(self._op, describe(x), "a plain tensor", "Pass x.clone().")
        return result.movedim(-1, 1)


def check_image(op: str, x: Any, shape: ConvShape, device: torch.device) -> None:
    """Raises ShapeError for an x that this layer cannot take: type, layout, device, dtype, rank, channels, size."""
    spatial = len(shape.kernel)
    names = ", ".join("TWH"[spatial > 1 : spatial + 1][::-1]) if spatial > 1 else "T"
    expected = f"float32[batch, {shape.channels}, {names}] on {device}"
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        raise ShapeError(op, describe(x), expected, "Pass a dense torch tensor.")
    if x.device != device:
        raise ShapeError(op, describe(x), expected, f"Move the input with .to('{device}'), or the layer to its device.")
    if x.dtype != torch.float32:
        raise ShapeError(op, describe(x), expected, "Convert it with .float(); nothing is cast silently.")
    if x.dim() not in (spatial + 1, spatial + 2) or x.shape[-spatial - 1] != shape.channels:
        raise ShapeError(op, describe(x), expected, f"Give it {shape.channels} channels, with or without a batch.")
    shape.out_size(op, tuple(x.shape[-spatial:]))
