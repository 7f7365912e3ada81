"""GRU over a window in one launch, in CUDA C++; kernels/recurrent/cuda/window.cu."""

from __future__ import annotations

from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.cuda import window_choice

window_choice.register("gru", contract.GATES, contract.lower)
