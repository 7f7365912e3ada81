"""LSTM with float32 weights: kernels/recurrent/triton/float32.py, and windows kernels/recurrent/cuda/float32/."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.linear.triton import float32 as linear
from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.cuda.float32 import choice as cuda
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import float32


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for k, geometry in (
        (64, Geometry(64, time=50)),
        (128, Geometry(128, layers=2, time=31)),
        (256, Geometry(256, time=4)),
    ):
        yield float32.example("lstm", geometry, k)
    for geometry in (Geometry(64, time=50, directions=2), Geometry(128, time=31)):
        yield float32.example("lstm", geometry, 64, counted=True)


float32.register("lstm", contract.lower, linear.form)
cuda.register("lstm", contract.lower, linear.form)
