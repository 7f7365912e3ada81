"""Fused linear in plain torch: the operators it stands for, one after another."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.formats import fp8
from rtaccel.formats.int8 import to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.linear import portable as linear


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low, how = contract.lower(stage), contract.input_format(stage)
    int8_out = stage.outputs[0].dtype == "int8"
    if how == "float8":
        weight = low["weight"].float().T.contiguous()

        def multiply(x: Tensor) -> Tensor:
            q, row_scale = fp8.dynamic(x)
            t = (q.float() @ weight) * (low["multiplier"] * row_scale) + low["offset"]
            return activations.apply(low["activation"], t, low["activation_parameter"])
    else:
        inner = contract.inner(stage)
        product = linear.prepare(inner, Problem.of(inner, problem.rows, problem.device))

        def multiply(x: Tensor) -> Tensor:
            return contract.handed_on(stage, x, product(*contract.quantized(stage, x))[0])

    def call(x: Tensor, residual: Tensor | None = None) -> tuple[Tensor]:
        a = multiply(x)
        if residual is not None:
            a = a + residual
        return (to_int8(a, low["y_inv_scale"], low["y_zero_point"]) if int8_out else a,)

    return call


register_impl(Impl("fused_linear", "portable_torch", "portable", 0, lambda problem: None, prepare))
