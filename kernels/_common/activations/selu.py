"""selu: 1.0507 t if t > 0 else 1.7581 (exp(t) - 1)."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.selu(t),
    triton="tl.where(t > 0, 1.0507009873554805 * t, 1.7580993408473766 * (tl.exp(t) - 1.0))",
    aten=(Aten("selu.default"),),
    slope=1.76,
)
