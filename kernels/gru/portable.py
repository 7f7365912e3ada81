"""GRU in plain torch: torch's own for float32, the contract's arithmetic for int8."""

from __future__ import annotations

from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.plain import register

register(contract.OPERATOR, contract.CELLS)
