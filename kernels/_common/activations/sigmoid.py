"""sigmoid: 1 / (1 + exp(-t))."""

import torch

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: torch.sigmoid(t),
    triton="sigmoid(t)",
    aten=(Aten("sigmoid.default"),),
)
