"""gelu: t / 2 * (1 + erf(t / sqrt 2))."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.gelu(t),
    triton="gelu(t)",
    aten=(Aten("gelu.default", only={"approximate": "none"}),),
)
