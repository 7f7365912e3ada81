"""What the W8A8 Triton kernels of `linear` share: operands on the device, the call, what they take.

The zero point of x never enters a kernel's inner loop. With c[n] = -zero_point * sum_k weight[n, k], an int32 made
once, sum_k x[m, k] * weight[n, k] + c[n] is the contract's accumulator, the same integer: every term stays below
2^31 for K <= MAX_K, so neither wrapping nor the saturation of the tensor cores can change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_epilogue import epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import MAX_N, Specialisation, require_matrix
from rtaccel.kernels.linear import contract

LINE = 16
"""Bytes of the widest load; weight rows are padded to it."""


@dataclass(frozen=True)
class KernelConfig:
    """What a kernel is specialized on besides its tiles; from a Problem alone."""

    n: int
    k: int
    activation: str
    dynamic: bool
    int8_out: bool

    @classmethod
    def of(cls, problem: Problem) -> KernelConfig:
        return cls(
            n=problem.out_widths[0],
            k=problem.in_widths[0],
            activation=str(problem.attrs.get("activation", "none")),
            dynamic=len(problem.in_widths) == 2,
            int8_out=problem.out_dtypes[0] == "int8",
        )

    def __str__(self) -> str:
        rows, out = ("dynamic" if self.dynamic else "static"), ("int8" if self.int8_out else "float32")
        return f"N{self.n}_K{self.k}_{rows}_{self.activation}_{out}"

    @property
    def constants(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "N": self.n, "ACTIVATION": self.activation, "INT8_OUT": self.int8_out, "ASM": not settings.triton_interpret(),
            "K": self.k,
        }  # fmt: skip
        return found if self.dynamic else {**found, "row_scale_ptr": None}

    def signature(self, word: str = "*i8") -> dict[str, str]:
        """Run-time arguments of both kernels, in source order. word: what x and weight are read as."""
        more = ("compensation_ptr", "row_scale_ptr") if self.dynamic else ("compensation_ptr",)
        return {"x_ptr": word, "weight_ptr": word, **epilogue_types(self.int8_out, *more), "rows": "i32"}


def unsupported(problem: Problem) -> str | None:
    """None, or why no W8A8 kernel takes this."""
    if problem.weight_format is not WeightFormat.INT8:
        return f"computes int8 weights, not {problem.weight_format}"
    if problem.in_dtypes[0] != "int8":
        return f"reads int8 activations, not {problem.in_dtypes[0]}"
    if problem.out_widths[0] > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.in_widths[0] > contract.MAX_K:
        return f"sums in int32, which holds K <= {contract.MAX_K}, not K = {problem.in_widths[0]}"
    return None


def pad_rows(weight: Tensor) -> Tensor:
    """[N, K] -> [N, ceil(K / 16) * 16], zeros at the end: every row then starts aligned for a 16-byte load."""
    n, k = weight.shape
    padded = weight.new_zeros((n, -(-k // LINE) * LINE))
    padded[:, :k] = weight
    return padded


@dataclass(frozen=True)
class Operands:
    """The numbers of `contract.lower` on the device.

    weight int8 [N, K padded to 16], multiplier and offset float32 [N], compensation int32 [N]; scalars: the
    activation's parameter, y_inv_scale, y_zero_point.
    """

    config: KernelConfig
    weight: Tensor
    multiplier: Tensor
    offset: Tensor
    compensation: Tensor
    scalars: tuple[float, float, int]

    @classmethod
    def of(cls, stage: Stage, problem: Problem) -> Operands:
        low = contract.lower(stage)
        sums = low["weight"].sum(1, dtype=torch.int32)
        return cls(
            config=KernelConfig.of(problem),
            weight=pad_rows(low["weight"]).to(problem.device),
            multiplier=low["multiplier"].contiguous().to(problem.device),
            offset=low["offset"].contiguous().to(problem.device),
            compensation=(-low["x_zero_point"] * sums).to(problem.device),
            scalars=(low["activation_parameter"], low["y_inv_scale"], low["y_zero_point"]),
        )

    def output(self, x: Tensor, row_scale: Tensor | None) -> Tensor:
        """Checks the inputs (ShapeError) and gives a fresh y [M, N]."""
        require_matrix("linear", x, self.config.k, torch.int8)
        if (row_scale is not None) != self.config.dynamic:
            expected = "x and row_scale" if self.config.dynamic else "x alone"
            raise ShapeError(
                "linear", "row_scale" if row_scale is not None else "no row_scale", expected, "See linear."
            )
        if row_scale is not None:
            require_matrix("linear", row_scale, 1, torch.float32)
            if row_scale.shape[0] != x.shape[0]:
                raise ShapeError("linear", f"{row_scale.shape[0]} row scales", f"{x.shape[0]}", "One scale per row.")
        dtype = torch.int8 if self.config.int8_out else torch.float32
        return torch.empty((x.shape[0], self.config.n), dtype=dtype, device=x.device)


def launcher(ops: Operands, spec: Specialisation, weight: Tensor) -> Prepared:
    """The call of a kernel with tiles [block_m, block_n] of y; x is read as elements of the dtype of `weight`."""
    launch, tile, n = bind(spec), spec.tiling, ops.config.n
    parameter, y_inv_scale, y_zero_point = ops.scalars

    def call(x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor]:
        y = ops.output(x, row_scale)
        if y.numel():
            grid = (triton.cdiv(x.shape[0], tile.block_m), triton.cdiv(n, tile.block_n))
            scale = {} if row_scale is None else {"row_scale_ptr": row_scale}
            launch(
                grid, x_ptr=x.view(weight.dtype), weight_ptr=weight, y_ptr=y, multiplier_ptr=ops.multiplier,
                offset_ptr=ops.offset, compensation_ptr=ops.compensation, rows=x.shape[0], parameter=parameter,
                y_inv_scale=y_inv_scale, y_zero_point=y_zero_point, **scale,
            )  # fmt: skip
        return (y,)

    return call
