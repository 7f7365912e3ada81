"""RNN with relu: all layers and directions of an nn.RNN, over a window or one time step of a stream.

    h = relu(W_x x_t + b_x + W_h h + b_h)

inputs (x, h0) or (x,), where the state starts at zero; outputs (y, hn) or (y,). Layout of the values, names of
tensors and attributes: kernels/recurrent/layout.py. The state has no bound that would give int8 a scale, so
weights are float32. NaN and infinity go where the formula takes them.
"""

from __future__ import annotations

import torch

from rtaccel.core.registry import register_operator
from rtaccel.kernels.recurrent.bound import rnn_relu_bound
from rtaccel.kernels.recurrent.operator import Cells, operator_of
from rtaccel.kernels.recurrent.reference import rnn_cell

CELLS = Cells(rnn_cell(torch.relu), None, rnn_relu_bound)
OPERATOR = register_operator(operator_of("rnn_relu", CELLS, sigmoid_gates=(False,), states=("h",), sparse=False))
lower = OPERATOR.lower
