"""clipped_relu: min(max(t, 0), parameter)."""

import torch

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: torch.clamp(t, 0.0, parameter),
    triton="tl.where(t < 0, 0.0, tl.where(t > parameter, parameter, t))",
    aten=(
        Aten("hardtanh.default", "max_val", {"min_val": 0}),
        Aten("clamp.default", "max", {"min": 0}),
    ),
    clips="relu",
    numba="FLOAT32(0) if t < FLOAT32(0) else (parameter if t > parameter else t)",
    example=6.0,
)
