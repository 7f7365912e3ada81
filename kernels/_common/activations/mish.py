"""mish: t tanh(log(1 + exp(t)))."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.mish(t),
    triton="mish(t)",
    aten=(Aten("mish.default"),),
)
