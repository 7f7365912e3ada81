"""softplus: log(1 + exp(t))."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.softplus(t),
    triton="tl.where(t > 0, t, t * 0.0) + tl.log(1.0 + tl.exp(-tl.abs(t)))",
    aten=(Aten("softplus.default", only={"beta": 1, "threshold": 20}),),
)
