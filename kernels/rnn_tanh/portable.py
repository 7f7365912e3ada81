"""RNN with tanh in plain torch: torch's own for float32, the contract's arithmetic for int8."""

from __future__ import annotations

from rtaccel.kernels.recurrent.plain import register
from rtaccel.kernels.rnn_tanh import contract

register(contract.OPERATOR, contract.CELLS)
