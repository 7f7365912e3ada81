"""GRU with float32 weights: kernels/recurrent/triton/float32.py, and windows kernels/recurrent/cuda/float32/."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.gru import contract
from rtaccel.kernels.linear.triton import float32 as linear
from rtaccel.kernels.recurrent.cuda.float32 import choice as cuda
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import float32


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for k, geometry in ((32, Geometry(64, layers=2, time=8, last_only=1)), (64, Geometry(128))):
        yield float32.example("gru", geometry, k)


float32.register("gru", contract.lower, linear.form)
cuda.register("gru", contract.lower, linear.form)
