"""LSTM that stays on the GPU: the forms of kernels/recurrent/triton/persistent.py that are compiled without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE, Specialisation
from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.config import MULTIPROCESSORS, KernelConfig, select_config
from rtaccel.kernels.recurrent.triton.persistent import specialize
from rtaccel.kernels.recurrent.triton.stack import problem_of


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU: small, and LSTM_B and C of STAC-ML."""
    for k, geometry, outputs in (
        (32, Geometry(64, layers=2), 1),
        (250, Geometry(200, layers=3), 1),
        (500, Geometry(1000, layers=4), 1),
    ):
        kernel_config = select_config(problem_of("lstm", contract.GATES, geometry, k), contract.GATES, MULTIPROCESSORS)
        assert isinstance(kernel_config, KernelConfig), kernel_config
        spec = specialize("lstm", kernel_config, outputs, None if outputs == geometry.hidden else "none")
        spec = spec.with_requirements(GPU_DP4A, SYSTEM_LOAD, SYSTEM_STORE, forbids=(SYSTEM_FENCE,))
        yield replace(spec, slow=True)
