"""GRU in Triton: a whole stack with int8 weights in one launch; kernels/recurrent/triton/kernel.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import (
    GPU_DP4A,
    SYSTEM_FENCE,
    WIDE_LOAD,
    Specialisation,
)
from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import stack


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU; larger stacks are cut as those of LSTM are."""
    yield stack.example("gru", contract.GATES, Geometry(64), 32).with_requirements(
        GPU_DP4A, WIDE_LOAD, forbids=(SYSTEM_FENCE,)
    )


stack.register("gru", contract.GATES, contract.lower)
