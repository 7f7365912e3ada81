"""softplus: log(1 + exp(t))."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.softplus(t),
    triton="softplus(t)",
    aten=(Aten("softplus.default", only={"beta": 1, "threshold": 20}),),
)
