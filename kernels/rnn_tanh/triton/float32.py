"""RNN with tanh and float32 weights: kernels/recurrent/triton/float32.py, and windows kernels/recurrent/cuda/float32/."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.linear.triton import float32 as linear
from rtaccel.kernels.recurrent.cuda.float32 import choice as cuda
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import float32
from rtaccel.kernels.rnn_tanh import contract


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for k, geometry in ((32, Geometry(128, time=16)),):
        yield float32.example("rnn_tanh", geometry, k)


float32.register("rnn_tanh", contract.lower, linear.form)
cuda.register("rnn_tanh", contract.lower, linear.form)
