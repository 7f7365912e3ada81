"""`thirds_kernel` as an implementation of linear: W4A16 and W8A16 of few rows, where layers are large."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import BF16_MMA, WIDE_LOAD, Specialisation
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig
from rtaccel.kernels.linear.triton.thirds_config import prepared, specialize, supports


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y [M, N]; any M, best for those of the problem."""
    return prepared("linear", KernelConfig.of_linear(problem), contract.lower(stage), problem)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    make = contract_weights.make_stage
    for stage, rows in (
        (make(4096, 4096, "w4a16", group_size=128), 1),
        (make(4096, 4096, "w4a16"), 1),
        (make(4096, 4096, "w8a16", "relu"), 1),
        (make(11008, 4096, "w4a16", group_size=128), 1),
        (make(4096, 2048, "w4a16", "gelu", group_size=64), 2),
        (make(4096, 4096, "w4a16", group_size=128), 4),
        (make(4096, 4096, "w8a16"), 8),
    ):
        config = KernelConfig.of_linear(Problem.of(stage, rows, "cuda"))
        yield specialize(config, rows).with_requirements(BF16_MMA, WIDE_LOAD)


register_impl(Impl("linear", "triton_thirds", "triton", 22, supports, prepare))
