"""gelu_tanh: t / 2 * (1 + tanh(sqrt(2 / pi) * (t + 0.044715 t^3)))."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.gelu(t, approximate="tanh"),
    triton="0.5 * t * (1.0 + tanh(0.7978845608028654 * (t + 0.044715 * t * t * t)))",
    aten=(Aten("gelu.default", only={"approximate": "tanh"}),),
)
