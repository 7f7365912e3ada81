"""elu: t if t > 0 else parameter * (exp(t) - 1)."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.elu(t, parameter),
    triton="below(t, parameter, most(t, 0.0))",
    aten=(Aten("elu.default", "alpha", {"scale": 1, "input_scale": 1}, "is a scaled ELU"),),
    example=1.3,
)
