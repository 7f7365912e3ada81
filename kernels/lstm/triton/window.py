"""LSTM over a window in one launch, in CUDA C++; kernels/recurrent/cuda/window.cu."""

from __future__ import annotations

from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.cuda import window_choice

window_choice.register("lstm", contract.GATES, contract.lower)
