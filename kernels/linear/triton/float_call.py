"""The call of kernels that read float32 x as it is given, of `linear` and of `fused_linear`.

Their programs may share the sum over K (triton/split.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, require_matrix, require_residual
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig
from rtaccel.kernels.linear.triton.split import Workspace


def prepared_call(
    op: str,
    config: KernelConfig,
    low: Mapping[str, Any],
    problem: Problem,
    spec: Specialisation,
    weights: Mapping[str, Tensor],
    before: Callable[[Tensor, int], Tensor] | None = None,
) -> Prepared:
    """x float32 [M, K] and, where the form has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem.

    weights: by parameter of the kernel. before: from x, and the rows of all tiles, to what the kernel reads.
    """
    launch, tile, split = bind(spec), spec.tiling, spec.constants.get("SPLIT", 1)
    offset = low["bias"] if "bias" in low else low["offset"]
    multiplier = low.get("multiplier", torch.ones_like(offset))
    pointers = {**weights, "multiplier_ptr": multiplier.contiguous(), "offset_ptr": offset.contiguous()}
    pointers = {name: tensor.to(problem.device) for name, tensor in pointers.items()}
    workspace = Workspace(tile.block_m * tile.block_n, split, torch.float32)
    columns, dtype = triton.cdiv(config.n, tile.block_n), torch.int8 if config.int8_out else torch.float32
    scalars: dict[str, Any] = {
        "parameter": low["activation_parameter"], "y_inv_scale": low.get("y_inv_scale", 1.0),
        "y_zero_point": low.get("y_zero_point", 0),
    }  # fmt: skip

    def call(x: Tensor, *residual: Tensor) -> tuple[Tensor]:
        require_matrix(op, x, config.k, torch.float32)
        require_residual(op, x, residual, config.residual, config.n)
        rows = x.shape[0]
        y = torch.empty((rows, config.n), dtype=dtype, device=x.device)
        if y.numel():
            lines = triton.cdiv(rows, tile.block_m)
            more = dict(zip(("work_ptr", "count_ptr"), workspace.take(columns * lines, x.device))) if split > 1 else {}
            more |= {"residual_ptr": residual[0]} if residual else {}
            read = x if before is None else before(x, lines * tile.block_m)
            launch((lines, columns, split), x_ptr=read, y_ptr=y, rows=rows, **scalars, **pointers, **more)
        return (y,)

    return call
