"""RNN with tanh in plain torch: torch's own for float32, the contract's arithmetic for int8."""

from __future__ import annotations

from rtaccel.core.registry import Impl, register_impl
from rtaccel.kernels.recurrent.plain import prepare, supports
from rtaccel.kernels.rnn_tanh import contract

_prepare = prepare(contract.lower, contract.CELLS.reference)
register_impl(Impl("rnn_tanh", "portable_torch", "portable", 0, supports(contract.CELLS.quantizes), _prepare))
