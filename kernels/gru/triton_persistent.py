"""GRU that stays on the GPU: the forms of kernels/recurrent/triton/persistent.py that are compiled without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE, Specialisation
from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.config import MULTIPROCESSORS, KernelConfig, select_config
from rtaccel.kernels.recurrent.triton.persistent import specialize
from rtaccel.kernels.recurrent.triton.stack import problem_of


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    kernel_config = select_config(problem_of("gru", contract.GATES, Geometry(64), 32), contract.GATES, MULTIPROCESSORS)
    assert isinstance(kernel_config, KernelConfig), kernel_config
    spec = specialize("gru", kernel_config, 64, None).with_requirements(
        GPU_DP4A, SYSTEM_LOAD, SYSTEM_STORE, forbids=(SYSTEM_FENCE,)
    )
    yield replace(spec, slow=True)
