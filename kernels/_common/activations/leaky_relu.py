"""leaky_relu: t if t > 0 else parameter * t."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.leaky_relu(t, parameter),
    triton="tl.where(t > 0, t, mul(t, parameter))",
    aten=(Aten("leaky_relu.default", "negative_slope"),),
    homogeneous=True,
    example=0.1,
)
