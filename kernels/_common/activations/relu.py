"""relu: max(t, 0)."""

import torch

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: torch.relu(t),
    triton="tl.where(t < 0, 0.0, t)",
    numba="FLOAT32(0) if t < FLOAT32(0) else t",
    aten=(Aten("relu.default"),),
    homogeneous=True,
)
