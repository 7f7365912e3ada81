"""RNN with tanh: all layers and directions of an nn.RNN, over a window or one time step of a stream.

    h = tanh(W_x x_t + b_x + W_h h + b_h)

inputs (x, h0) or (x,), where the state starts at zero; outputs (y, hn) or (y,). Layout of the values, names of
tensors and attributes: kernels/recurrent/layout.py. `rnn_tanh` takes int8 and int4 weights too, with the arithmetic of
kernels/recurrent/reference.py to the bit. A stream that holds a NaN or an infinity is NaN everywhere then; with float32
weights they go where the formula takes them.
"""

from __future__ import annotations

import torch

from rtaccel.core.registry import register_operator
from rtaccel.kernels.recurrent.bound import rnn_tanh_bound
from rtaccel.kernels.recurrent.operator import Cells, operator_of
from rtaccel.kernels.recurrent.reference import quantized_rnn_cell, rnn_cell

CELLS = Cells(rnn_cell(torch.tanh), quantized_rnn_cell, rnn_tanh_bound)
OPERATOR = register_operator(operator_of("rnn_tanh", CELLS, sigmoid_gates=(False,), states=("h",), sparse=False))
lower = OPERATOR.lower
