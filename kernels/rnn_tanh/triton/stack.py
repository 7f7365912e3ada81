"""RNN with tanh in Triton: a whole stack with int8 or int4 weights in one launch; kernels/recurrent/triton/kernel.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, SYSTEM_FENCE, WIDE_LOAD, Specialisation
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import stack
from rtaccel.kernels.rnn_tanh import contract

GATES = 1


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for group in (0, 32):
        yield stack.example("rnn_tanh", GATES, Geometry(128, layers=2, time=16), 64, group).with_requirements(
            GPU_DP4A, WIDE_LOAD, forbids=(SYSTEM_FENCE,)
        )


stack.register("rnn_tanh", GATES, contract.lower)
