"""LSTM in Triton: one time step of many small streams; kernels/recurrent/triton/many.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import INT8_MMA, Specialisation
from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import many


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    yield many.example("lstm", contract.GATES, Geometry(64, layers=2), 24).with_requirements(INT8_MMA)


many.register("lstm", contract.GATES, contract.lower)
