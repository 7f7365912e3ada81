"""What `mixed_kernel` is specialized on, how its weights lie in memory, and its call; for `linear` and `fused_linear`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_epilogue import epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two, require_matrix
from rtaccel.kernels.linear.triton.mixed import mixed_kernel
from rtaccel.kernels.linear.triton.split import Workspace, parts_of

WEIGHTS: Mapping[WeightFormat | None, str] = {
    WeightFormat.INT8: "int8", WeightFormat.INT4: "int4", WeightFormat.BFLOAT16: "bf16", WeightFormat.FLOAT8: "fp8",
}  # fmt: skip
"""A weight's format -> its name in a form, which the names of kernels have."""

DTYPES = {"int8": torch.int8, "float32": torch.float32}


@dataclass(frozen=True)
class Laid:
    """How weights lie that are loaded as elements of 16 bits: numbers of `bits` in each, block_k elements of an output in a part
    of K. steps: along K."""

    bits: int
    block_k: int
    steps: int

    @property
    def part(self) -> int:
        """Numbers along K of a part."""
        return 16 // self.bits * self.block_k

    @property
    def step(self) -> int:
        """Numbers along K of a step."""
        return self.part

    @property
    def columns(self) -> int:
        """Of x with its padding."""
        return self.steps * self.step


@dataclass(frozen=True)
class KernelConfig:
    """x: dtype of the activations as given. rows: "int8" or "float8" where float32 x is quantized in the kernel, a scale per
    row, and "static" with one scale. scaled: int8 x comes with a scale per row. compensated: it has a zero point, for which an
    int32 is added to sums.
    group: of int4 weights, else 0. residual: a float32 [M, N] is added after the activation."""

    n: int
    k: int
    weight: str
    x: str
    activation: str = "none"
    rows: str = "none"
    group: int = 0
    scaled: bool = False
    compensated: bool = False
    residual: bool = False
    int8_out: bool = False

    @classmethod
    def of_linear(cls, problem: Problem) -> KernelConfig:
        weight, x = WEIGHTS[problem.weight_format], problem.in_dtypes[0]
        scaled = len(problem.in_widths) == 2
        return cls(
            n=problem.out_widths[0],
            k=problem.in_widths[0],
            weight=weight,
            x=x,
            activation=str(problem.attrs.get("activation", "none")),
            group=int(problem.attrs["group_size"]) if weight == "int4" else 0,
            scaled=scaled,
            compensated=weight == "int8" and x == "int8" and not scaled,
            int8_out=problem.out_dtypes[0] == "int8",
        )

    @property
    def block_k(self) -> int:
        """Of K in a step: of an int4 group the largest power of two that divides it."""
        if self.group:
            return min(self.group & -self.group, 128)
        block = power_of_two(self.k, 32, 128)
        while block > 64 and self.k >= 4 * block and -(-self.k // (2 * block)) * (2 * block) > self.k * 17 / 16:
            block //= 2  # so that two parts of K may be equal without much padding
        return block

    @property
    def dot(self) -> str:
        """The type that the tensor cores multiply."""
        if self.rows == "float8":
            return "fp8"
        if self.x == "int8" or self.rows in ("int8", "static"):
            return "int8" if self.block_k >= 32 else "fp16"
        return "bf16"

    @property
    def steps(self) -> int:
        """Of the loop over K."""
        return -(-self.k // (2 * self.group)) if self.group else -(-self.k // self.block_k)

    def __str__(self) -> str:
        x = {"none": {"int8": "a8", "float32": "a16"}[self.x], "int8": "rows8", "float8": "rowsf8", "static": "static"}[
            self.rows
        ]
        said = (("marked", self.scaled and self.compensated), ("residual", self.residual), ("int8", self.int8_out))
        more = "".join(f"_{w}" for w, on in said if on)
        group = f"_g{self.group}" if self.group else ""
        return f"{self.weight}{group}_{x}_N{self.n}_K{self.k}_{self.activation}{more}"


SHARED_BYTES = 96 << 10
"""For tiles that are on their way: every card has them, the smallest 99 KiB."""


def tiling(config: KernelConfig, rows: int) -> Tiling:
    """Narrow tiles of N, so that a small layer still spreads over many multiprocessors. Not measured on a card."""
    block_m = power_of_two(rows, 16, 64)
    block_n = 16 if config.n <= 512 else 32 if config.n <= 4096 or config.group >= 128 else 64
    stages = 3
    if config.group:
        each = 2 * (1 if config.x == "int8" else 4)  # a pair of groups is a step
        while block_m > 16 and config.group * (block_m * each + block_n) > SHARED_BYTES:
            block_m //= 2
        stages = min(4, 1 + SHARED_BYTES // (config.group * (block_m * each + block_n)))
    return Tiling(
        block_m=block_m,
        block_n=block_n,
        block_k=config.block_k,
        num_warps=8 if block_m == 64 and config.group >= 128 else 4,  # with four, some forms have no register left
        num_stages=stages if config.steps > 2 else 1,
    )


def split_of(config: KernelConfig, rows: int) -> int:
    tile = tiling(config, rows)
    return parts_of(-(-config.n // tile.block_n) * -(-max(rows, 1) // tile.block_m), config.steps)


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    tile, split = tiling(config, rows), split_of(config, rows)
    exact = config.dot == "int8" and not config.group
    signature, absent = leave_out(
        {
            "x_ptr": "*i8" if config.x == "int8" else "*fp32",
            "weight_ptr": {"bf16": "*bf16", "fp8": "*fp8e4nv"}.get(config.weight, "*i8"), "scale_ptr": "*i32",
            "work_ptr": "*i32" if exact else "*fp32", "count_ptr": "*i32",
            **epilogue_types(config.int8_out, "compensation_ptr", "row_scale_ptr", "residual_ptr"), "rows": "i32",
            "x_inv_scale": "fp32", "x_zero_point": "i32",
        },
        scale_ptr=config.group, work_ptr=split > 1, count_ptr=split > 1, compensation_ptr=config.compensated,
        row_scale_ptr=config.scaled, residual_ptr=config.residual, x_inv_scale=config.rows == "static",
        x_zero_point=config.rows == "static",
    )  # fmt: skip
    return Specialisation(
        name=f"linear_mixed_M{tile.block_m}_{config}" + (f"_split{split}" if split > 1 else ""),
        kernel=mixed_kernel,
        signature=signature,
        constants={
            "N": config.n, "ACTIVATION": config.activation, "INT8_OUT": config.int8_out, "ASM": not settings.triton_interpret(),
            "K": config.k, "ROWS": config.rows, "DOT": config.dot, "GROUP": config.group, "SPLIT": split, "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, **absent,
        },
        tiling=tile,
        oldest=89 if config.dot == "fp8" else 80,
    )  # fmt: skip


def pack(
    config: KernelConfig, weight: Tensor, group_scale: Tensor | None, spec: Specialisation
) -> tuple[Tensor, Tensor | None]:
    """The weight tile after tile, [tiles of N, steps, block_n, block_k] in one stream, and the scales of int4, int32
    [tiles of N, pairs, block_n]; both padded with zeros."""
    block_n, block_k, split = spec.tiling.block_n, spec.tiling.block_k, spec.constants["SPLIT"]
    n = -(-config.n // block_n) * block_n
    steps = -(-config.steps // split) * split
    if not config.group:
        padded = torch.zeros((n, steps * block_k), dtype=weight.dtype, device=weight.device)
        padded[: config.n, : config.k] = weight
        return padded.view(-1, block_n, steps, block_k).transpose(1, 2).contiguous(), None
    assert group_scale is not None
    group, pieces = config.group, config.group // block_k
    q = torch.zeros((n, steps * 2 * group), dtype=torch.int8, device=weight.device)
    q[: config.n, : config.k] = int4.unpack(weight, config.k)
    low, high = q.view(n, steps, 2, group).unbind(2)
    both = (low & 15) | (high << 4)
    packed = both.view(-1, block_n, steps, pieces, block_k).permute(0, 2, 3, 1, 4).contiguous()
    scales = torch.zeros((n, steps * 2), device=weight.device)
    scales[: config.n, : group_scale.shape[1]] = group_scale / 16  # exact; the kernel multiplies by 16 q
    bits = scales.bfloat16().view(torch.int16).to(torch.int32).view(n, steps, 2)
    word = (bits[..., 0] & 0xFFFF) | (bits[..., 1] << 16)
    return packed, word.view(-1, block_n, steps).transpose(1, 2).contiguous()


@dataclass(frozen=True)
class Operands:
    """A form's numbers on the device, and its call. multiplier and offset float32 [N]; scalars: the activation's
    parameter, y_inv_scale, y_zero_point; compensation int32 [N] where the form has it. x_scale: what x is multiplied by and its
    zero point, where the kernel rounds it by them."""

    config: KernelConfig
    spec: Specialisation
    weight: Tensor
    scales: Tensor | None
    multiplier: Tensor
    offset: Tensor
    compensation: Tensor | None
    scalars: tuple[float, float, int]
    x_scale: dict[str, Any]

    @classmethod
    def of(cls, config: KernelConfig, low: Mapping[str, Any], rows: int, device: str) -> Operands:
        """low: weight, group_scale, multiplier, offset, x_zero_point, activation_parameter, y_inv_scale, y_zero_point, as
        far as the form has them."""
        spec = specialize(config, rows)
        weight = low["weight"]
        packed, scales = pack(config, weight, low.get("group_scale"), spec)
        offset = low["bias"] if "bias" in low else low["offset"]
        compensation = None
        if config.compensated:
            compensation = (-low["x_zero_point"] * weight.sum(1, dtype=torch.int32)).to(device)
        return cls(
            config=config,
            spec=spec,
            weight=packed.to(device),
            scales=None if scales is None else scales.to(device),
            multiplier=low.get("multiplier", torch.ones_like(offset)).contiguous().to(device),
            offset=offset.contiguous().to(device),
            compensation=compensation,
            scalars=(low["activation_parameter"], low.get("y_inv_scale", 1.0), low.get("y_zero_point", 0)),
            x_scale={name: low[name] for name in ("x_inv_scale", "x_zero_point") if name in spec.signature},
        )

    def check(self, op: str, x: Tensor, row_scale: Tensor | None, residual: Tensor | None) -> None:
        """Raises ShapeError for what the kernel cannot read as it lies."""
        config = self.config
        require_matrix(op, x, config.k, DTYPES[config.x])
        for name, given, wanted, width in (
            ("row_scale", row_scale, config.scaled, 1),
            ("residual", residual, config.residual, config.n),
        ):
            if (given is not None) != wanted:
                got, expected = ("no ", "") if wanted else ("", "no ")
                raise ShapeError(op, f"{got}{name}", f"{expected}{name}", "Pass the inputs of the stage, in order.")
            if given is not None:
                require_matrix(op, given, width, torch.float32)
                if given.shape[0] != x.shape[0]:
                    raise ShapeError(op, f"{given.shape[0]} rows of {name}", f"{x.shape[0]}", "Match the batch.")

    def launcher(self, op: str) -> Prepared:
        """x [M, K], then row_scale or residual where the form has one -> y [M, N]; any M."""
        config, spec, tile = self.config, self.spec, self.spec.tiling
        launch, split = bind(spec), spec.constants["SPLIT"]
        exact = spec.signature.get("work_ptr") == "*i32"
        workspace = Workspace(tile.block_m * tile.block_n, split, torch.int32 if exact else torch.float32)
        out_dtype = torch.int8 if config.int8_out else torch.float32
        columns = triton.cdiv(config.n, tile.block_n)
        pointers = {
            name: tensor
            for name, tensor in (("scale_ptr", self.scales), ("compensation_ptr", self.compensation))
            if tensor is not None
        }
        parameter, y_inv_scale, y_zero_point = self.scalars

        def call(x: Tensor, *more: Tensor) -> tuple[Tensor]:
            rest = list(more)
            row_scale = rest.pop(0) if config.scaled and rest else None
            residual = rest.pop(0) if rest else None
            self.check(op, x, row_scale, residual)
            y = torch.empty((x.shape[0], config.n), dtype=out_dtype, device=x.device)
            if not y.numel():
                return (y,)
            lines = triton.cdiv(x.shape[0], tile.block_m)
            given: dict[str, Any] = {}
            if split > 1:
                given["work_ptr"], given["count_ptr"] = workspace.take(columns * lines, x.device)
            if row_scale is not None:
                given["row_scale_ptr"] = row_scale
            if residual is not None:
                given["residual_ptr"] = residual
            launch(
                (lines, columns, split), x_ptr=x, weight_ptr=self.weight, y_ptr=y, multiplier_ptr=self.multiplier,
                offset_ptr=self.offset, rows=x.shape[0], parameter=parameter, y_inv_scale=y_inv_scale, y_zero_point=y_zero_point,
                **self.x_scale, **pointers, **given,
            )  # fmt: skip
            return (y,)

        return call
