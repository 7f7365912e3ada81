"""silu: t * sigmoid(t)."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.silu(t),
    triton="mul(t, sigmoid(t))",
    aten=(Aten("silu.default"),),
)
