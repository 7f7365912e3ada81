"""hardswish: t min(max(t + 3, 0), 6) / 6."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.hardswish(t),
    triton="mul(t, hard_sigmoid(t))",
    aten=(Aten("hardswish.default"),),
    slope=1.5,
)
