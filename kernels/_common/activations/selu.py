"""selu: 1.0507 t if t > 0 else 1.7581 (exp(t) - 1)."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.selu(t),
    triton="below(t, 1.75809934, mul(most(t, 0.0), 1.05070099))",
    aten=(Aten("selu.default"),),
    slope=1.76,
)
