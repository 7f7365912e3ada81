"""RNN with relu in plain torch."""

from __future__ import annotations

from rtaccel.core.registry import Impl, register_impl
from rtaccel.kernels.recurrent.plain import prepare, supports
from rtaccel.kernels.rnn_relu import contract

_prepare = prepare(contract.lower, contract.CELLS.reference)
register_impl(Impl("rnn_relu", "portable_torch", "portable", 0, supports(contract.CELLS.quantizes), _prepare))
