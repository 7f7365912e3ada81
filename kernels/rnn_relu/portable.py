"""RNN with relu in plain torch."""

from __future__ import annotations

from rtaccel.kernels.recurrent.plain import register
from rtaccel.kernels.rnn_relu import contract

register(contract.OPERATOR, contract.CELLS)
