"""LSTM: all layers and directions of an nn.LSTM, over a window or one time step of a stream.

    i, f, g, o = W_x x_t + b_x + W_h h + b_h         sigmoid for i, f, o; tanh for g
    c = f * c + i * g,   h = o * tanh(c)

inputs (x, h0, c0) or (x,), where the states start at zero; outputs (y, hn, cn) or (y,). Layout of the values, names of
tensors and attributes: kernels/recurrent/layout.py. With int8 and int4 weights the arithmetic is fixed to the bit:
kernels/recurrent/reference.py. A kernel reads a state before it writes it, so h0 and hn may be one value: a
stream then is the same stage with time = 1.

A stream (a sample, one of its batch) that holds a NaN or an infinity in x, h0 or c0 comes out as NaN everywhere with int8
and int4 weights; with float32 it goes where the formulas take it. Other streams are not touched.
"""

from __future__ import annotations

from rtaccel.core.registry import register_operator
from rtaccel.kernels.recurrent.bound import lstm_bound
from rtaccel.kernels.recurrent.operator import Cells, operator_of
from rtaccel.kernels.recurrent.reference import lstm_cell, quantized_lstm_cell

GATES = 4
CELLS = Cells(lstm_cell, quantized_lstm_cell, lstm_bound)
OPERATOR = register_operator(operator_of("lstm", CELLS, sigmoid_gates=(True, True, False, True), states=("h", "c")))
lower = OPERATOR.lower
