"""gelu_tanh: t / 2 * (1 + tanh(sqrt(2 / pi) * (t + 0.044715 t^3)))."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.gelu(t, approximate="tanh"),
    triton="gelu_tanh(t)",
    aten=(Aten("gelu.default", only={"approximate": "tanh"}),),
)
