"""The activation functions an epilogue may hold, in plain torch: the meaning the kernels are held to.

name            f(t)                                    parameter
none            t
relu            max(t, 0)
leaky_relu      t if t > 0 else slope * t               slope
elu             t if t > 0 else alpha * (exp(t) - 1)    alpha
gelu            t / 2 * (1 + erf(t / sqrt 2))
gelu_tanh       t / 2 * (1 + tanh(sqrt(2/pi) * (t + 0.044715 t^3)))
silu            t * sigmoid(t)
tanh, sigmoid
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("none", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")

HOMOGENEOUS = frozenset(("none", "relu", "leaky_relu"))
"""f(c * t) = c * f(t) for c > 0: the scale of an int8 output folds into the multiplier before it."""


def apply(name: str, t: Tensor, parameter: float = 0.0) -> Tensor:
    """f(t), elementwise, in the dtype of `t`."""
    match name:
        case "none":
            return t
        case "relu":
            return torch.relu(t)
        case "leaky_relu":
            return F.leaky_relu(t, parameter)
        case "elu":
            return F.elu(t, parameter)
        case "gelu":
            return F.gelu(t)
        case "gelu_tanh":
            return F.gelu(t, approximate="tanh")
        case "silu":
            return F.silu(t)
        case "tanh":
            return torch.tanh(t)
        case "sigmoid":
            return torch.sigmoid(t)
    raise ValueError(f"no activation {name!r}; there are {', '.join(ACTIVATIONS)}")


def error(name: str, t: Tensor) -> Tensor:
    """Bound on |kernel - exact| for a float32 kernel: 8 units in the last place of max(|t|, 1).

    `none`, `relu` and `leaky_relu` are exact up to the one product of the latter, which rounds alike everywhere.
    """
    if name in HOMOGENEOUS:
        return torch.zeros_like(t)
    return 8 * torch.finfo(torch.float32).eps * t.abs().clamp(min=1.0)
