"""GRU that stays on the GPU: the forms of kernels/recurrent/triton/persistent.py that are compiled without one."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.persistent import example


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    yield example("gru", contract.GATES, Geometry(64), 32, 64)
