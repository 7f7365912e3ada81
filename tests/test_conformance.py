"""Every implementation of every operator against its reference: found through the registry, none is named here."""

from __future__ import annotations

import pytest
import torch

from rtaccel.backends import backends
from rtaccel.core.registry import Impl, impls, operators
from rtaccel.core.stage import Problem

CPU_BACKENDS = [b.name for b in backends().values() if "cpu" in b.devices and b.unavailable() is None]
IMPLS = [impl for name in CPU_BACKENDS for impl in impls(name)]


def check(impl: Impl, case, seed: int) -> str | None:
    """None, or why the implementation does not take the case."""
    op = operators()[impl.op]
    inputs = case.make(seed)
    kept = [t.clone() for t in inputs]
    problem = Problem.of(case.stage, rows=inputs[0].shape[0])
    reason = impl.supports(problem)
    if reason is not None:
        return reason
    results = impl.prepare(case.stage, problem)(*inputs)
    expected = op.reference(case.stage, *inputs)
    tolerance = op.tolerance(case.stage, *inputs)
    assert len(results) == len(expected)
    for got, want in zip(results, expected):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if want.dtype == torch.int8:
            assert (got.int() - want.int()).abs().max().item() <= tolerance.steps if want.numel() else True
            continue
        same = (got == want) | (got.isnan() & want.isnan())
        near = (got.double() - want.double()).abs() <= torch.as_tensor(tolerance.atol, dtype=torch.float64)
        assert (same | near).all(), f"largest error {(got - want).abs().max()}"
    for before, after in zip(kept, inputs):
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    return None


@pytest.mark.parametrize("impl", IMPLS, ids=lambda i: f"{i.op}-{i.name}")
def test_equals_reference(impl: Impl, poisoned_empty) -> None:
    cases = list(operators()[impl.op].cases())
    assert cases
    refused = []
    for index, case in enumerate(cases):
        try:
            reason = check(impl, case, seed=1000 + index)
        except AssertionError as error:
            raise AssertionError(f"{impl.op} {impl.name} {case.id}: {error}") from error
        if reason is not None:
            refused.append(reason)
    if len(refused) == len(cases):
        pytest.skip(f"{impl.name}: {refused[0]}")
