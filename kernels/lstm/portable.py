"""LSTM in plain torch: torch's own for float32, the contract's arithmetic for int8."""

from __future__ import annotations

from rtaccel.core.registry import Impl, register_impl
from rtaccel.kernels._shared.recurrent_portable import prepare, supports
from rtaccel.kernels.lstm import contract

register_impl(Impl("lstm", "portable_torch", "portable", 0, supports, prepare(contract.lower, contract.CELLS)))
