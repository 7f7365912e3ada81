"""hardswish: t min(max(t + 3, 0), 6) / 6."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.hardswish(t),
    triton="t * tl.where(t < -3.0, 0.0, tl.where(t > 3.0, 1.0, t * 0.16666667 + 0.5))",
    aten=(Aten("hardswish.default"),),
    slope=1.5,
)
