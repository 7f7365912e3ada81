"""Fused sparse linear in plain torch: the operators it stands for, one after another."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.fused_sparse_linear import contract
from rtaccel.kernels.sparse_linear import portable as sparse


def prepare(stage: Stage, problem: Problem) -> Prepared:
    product = sparse.prepare(contract.inner(stage), contract.inner_problem(problem))

    def call(x: Tensor) -> tuple[Tensor, ...]:
        return (contract.handed_on(stage, x, product(*contract.quantized(stage, x))[0]),)

    return call


register_impl(Impl("fused_sparse_linear", "portable_torch", "portable", 0, lambda problem: None, prepare))
