"""hardsigmoid: min(max(t + 3, 0), 6) / 6."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.hardsigmoid(t),
    triton="hard_sigmoid(t)",
    aten=(Aten("hardsigmoid.default"),),
)
