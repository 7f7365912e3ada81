"""Every operator, in every implementation that this CPU can run, at the sizes of shapes.toml: latency of one call.

A call is what a drop-in layer makes: Python to the kernel and back, with a fresh output tensor. Its result is held to the
operator's contract first. Triton's interpreter is left out: it checks numbers, and its speed says nothing.
"""

from __future__ import annotations

import pytest
import shapes
import torch

from rtaccel.backends import backends
from rtaccel.core.registry import Case, Impl, impls, operators
from rtaccel.core.stage import Problem

BACKENDS = [
    b.name for b in backends().values() if "cpu" in b.devices and b.name != "triton" and b.unavailable() is None
]

PAIRS = [(case, impl) for op, case in shapes.cases() for backend in BACKENDS for impl in impls(backend, op)]


def check(case: Case, results: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...]) -> None:
    op = operators()[case.stage.op]
    tolerance = op.tolerance(case.stage, *inputs)
    for got, want in zip(results, op.reference(case.stage, *inputs), strict=True):
        assert tolerance.within(got, want).all()


@pytest.mark.parametrize(("case", "impl"), PAIRS, ids=[f"{i.op}/{c.id}/{i.name}" for c, i in PAIRS])
def test_kernel(latency, case: Case, impl: Impl) -> None:
    inputs = case.make(7)
    problem = Problem.of(case.stage, rows=inputs[0].shape[0])
    reason = impl.supports(problem)
    if reason is not None:
        pytest.skip(f"{impl.name}: {reason}")
    call = impl.prepare(case.stage, problem)
    check(case, call(*inputs), inputs)
    latency(call, *inputs, name=f"{impl.op}/{case.id}/{impl.name}")
