"""GRU: all layers and directions of an nn.GRU, over a window or one time step of a stream.

    r, z = sigmoid(W_x x_t + b_x + W_h h + b_h)
    n = tanh(W_x x_t + b_x + r * (W_h h + b_h))
    h = (1 - z) * n + z * h

inputs (x, h0) or (x,), where the state starts at zero; outputs (y, hn) or (y,). Layout of the values, names of
tensors and attributes: kernels/recurrent/layout.py. With int8 and int4 weights the arithmetic is fixed to the bit:
kernels/recurrent/reference.py. A kernel reads a state before it writes it, so h0 and hn may be one value: a
stream then is the same stage with time = 1.

A stream (a sample, one of its batch) that holds a NaN or an infinity in x or h0 comes out as NaN everywhere with int8
and int4 weights; with float32 it goes where the formulas take it. Other streams are not touched.
"""

from __future__ import annotations

from rtaccel.core.registry import register_operator
from rtaccel.kernels.recurrent.bound import gru_bound
from rtaccel.kernels.recurrent.operator import Cells, operator_of
from rtaccel.kernels.recurrent.reference import gru_cell, quantized_gru_cell

GATES = 3
CELLS = Cells(gru_cell, quantized_gru_cell, gru_bound)
OPERATOR = register_operator(operator_of("gru", CELLS, sigmoid_gates=(True, True, False), states=("h",)))
lower = OPERATOR.lower
