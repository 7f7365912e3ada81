"""GRU in Triton: a whole stack with int8 weights in one launch; kernels/recurrent/triton/kernel.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, register_impl
from rtaccel.kernels._gpu.triton_spec import (
    GPU_DP4A,
    SYSTEM_FENCE,
    WIDE_LOAD,
    Specialisation,
)
from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import stack
from rtaccel.kernels.recurrent.triton.config import MULTIPROCESSORS, KernelConfig, select_config


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU; larger stacks are cut as those of LSTM are."""
    problem = stack.problem_of("gru", contract.GATES, Geometry(64), 32)
    kernel_config = select_config(problem, contract.GATES, MULTIPROCESSORS)
    assert isinstance(kernel_config, KernelConfig), kernel_config
    yield stack.specialize(problem, kernel_config).with_requirements(GPU_DP4A, WIDE_LOAD, forbids=(SYSTEM_FENCE,))


register_impl(
    Impl(
        "gru",
        "triton_stack",
        "triton",
        10,
        stack.supports(contract.GATES),
        stack.prepare(contract.GATES, contract.lower),
    )
)
