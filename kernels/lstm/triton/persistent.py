"""LSTM that stays on the GPU: the forms of kernels/recurrent/triton/persistent.py that are compiled without one."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.persistent import example


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU: small, and LSTM_B and C of STAC-ML."""
    for k, geometry in (
        (32, Geometry(64, layers=2)),
        (250, Geometry(200, layers=3)),
        (500, Geometry(1000, layers=4)),
    ):
        yield example("lstm", contract.GATES, geometry, k, 1)
