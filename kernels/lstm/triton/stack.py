"""LSTM in Triton: a whole stack with int8 weights in one launch; kernels/recurrent/triton/kernel.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtaccel.kernels._gpu.triton_spec import (
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    WIDE_LOAD,
    Specialisation,
)
from rtaccel.kernels.lstm import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import stack
from rtaccel.kernels.recurrent.triton.bidirectional import layer_problem, specialize
from rtaccel.kernels.recurrent.triton.config import MULTIPROCESSORS, KernelConfig, select_config


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU: small, LSTM_A, B and C of STAC-ML over a window, LSTM_A in
    int4, and the second layer of a stack in both directions."""
    shared = (GPU_DP4A, WIDE_LOAD, SYSTEM_LOAD, SYSTEM_STORE)
    for k, geometry, group, requires in (
        (32, Geometry(64, layers=2), 0, (GPU_DP4A, WIDE_LOAD)),
        (100, Geometry(100, layers=2, time=50, last_only=1), 0, shared),
        (100, Geometry(100, layers=2, time=50, last_only=1), 32, shared),
        (250, Geometry(200, layers=3, time=100, last_only=1), 0, shared),
        (500, Geometry(1000, layers=4, time=100, last_only=1), 0, shared),
    ):
        yield stack.example("lstm", contract.GATES, geometry, k, group).with_requirements(
            *requires, forbids=(SYSTEM_FENCE,)
        )
    counted = stack.example("lstm", contract.GATES, Geometry(100, layers=2, time=50), 100, counted=True)
    yield counted.with_requirements(*shared, forbids=(SYSTEM_FENCE,))
    both = stack.problem_of("lstm", contract.GATES, Geometry(100, layers=2, directions=2, time=50, last_only=1), 40)
    kernel_config = select_config(layer_problem(both, 1), contract.GATES, MULTIPROCESSORS // 2)
    assert isinstance(kernel_config, KernelConfig), kernel_config
    spec = specialize(both, kernel_config, 1).with_requirements(GPU_DP4A, WIDE_LOAD, forbids=(SYSTEM_FENCE,))
    yield replace(spec, slow=True)


stack.register("lstm", contract.GATES, contract.lower)
