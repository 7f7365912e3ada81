"""GRU in Triton: one time step of many small streams; kernels/recurrent/triton/many.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import INT8_MMA, Specialisation
from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import many


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    yield many.example("gru", contract.GATES, Geometry(32), 32).with_requirements(INT8_MMA)


many.register("gru", contract.GATES, contract.lower)
