"""tanh."""

import torch

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: torch.tanh(t),
    triton="tanh(t)",
    aten=(Aten("tanh.default"),),
)
