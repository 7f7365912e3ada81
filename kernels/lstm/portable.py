"""LSTM in plain torch: torch's own for float32, the contract's arithmetic for int8."""

from __future__ import annotations

from rtaccel.core.registry import Impl, register_impl
from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.plain import prepare, supports

register_impl(
    Impl("lstm", "portable_torch", "portable", 0, supports(), prepare(contract.lower, contract.CELLS.reference))
)
