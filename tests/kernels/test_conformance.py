"""Every implementation of every operator against its reference: found through the registry, none is named here."""

from __future__ import annotations

import functools

import pytest
import torch

from rtaccel.backends import backends
from rtaccel.core.registry import Impl, impls, operators
from rtaccel.core.stage import Problem

CPU_BACKENDS = [b.name for b in backends().values() if "cpu" in b.devices and b.unavailable() is None]
IMPLS = sorted((impl for name in CPU_BACKENDS for impl in impls(name)), key=lambda impl: impl.op)


class Expected:
    """The cases of one operator, and what its reference says of each: worked out once for all implementations."""

    def __init__(self, op: str) -> None:
        self.operator = operators()[op]
        self.cases = list(self.operator.cases())
        self._known: dict[int, tuple] = {}

    def of(self, index: int) -> tuple:
        """Inputs, the reference's outputs, and the tolerance."""
        if index not in self._known:
            stage, inputs = self.cases[index].stage, self.cases[index].make(1000 + index)
            results = self.operator.reference(stage, *inputs)
            self._known[index] = (inputs, results, self.operator.tolerance(stage, *inputs))
        return self._known[index]


@functools.lru_cache(maxsize=2)  # an operator's implementations are tested one after another
def expected_of(op: str) -> Expected:
    return Expected(op)


def check(impl: Impl, known: Expected, index: int) -> str | None:
    """None, or why the implementation does not take the case."""
    case = known.cases[index]
    inputs, expected, tolerance = known.of(index)
    kept = [t.clone() for t in inputs]
    problem = Problem.of(case.stage, rows=inputs[0].shape[0])
    reason = impl.supports(problem)
    if reason is not None:
        return reason
    results = impl.prepare(case.stage, problem)(*inputs)
    assert len(results) == len(expected)
    for got, want in zip(results, expected):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert tolerance.within(got, want).all(), f"largest error {(got.double() - want.double()).abs().max()}"
    for before, after in zip(kept, inputs):
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    return None


@pytest.mark.parametrize("impl", IMPLS, ids=lambda i: f"{i.op}-{i.name}")
def test_equals_reference(impl: Impl, nan_filled_empty) -> None:
    known = expected_of(impl.op)
    assert known.cases
    refused = []
    for index, case in enumerate(known.cases):
        try:
            reason = check(impl, known, index)
        except AssertionError as error:
            raise AssertionError(f"{impl.op} {impl.name} {case.id}: {error}") from error
        if reason is not None:
            refused.append(reason)
    if len(refused) == len(known.cases):
        pytest.skip(f"{impl.name}: {refused[0]}")


@pytest.mark.parametrize("impl", IMPLS, ids=lambda i: f"{i.op}-{i.name}")
def test_no_samples_give_none(impl: Impl) -> None:
    """A batch of 0 has results of 0 samples, of the shapes and dtypes of others."""
    known = expected_of(impl.op)
    for index, case in enumerate(known.cases):
        problem = Problem.of(case.stage, rows=1)
        if impl.supports(problem) is not None:
            continue
        given, want, _ = known.of(index)
        try:
            got = impl.prepare(case.stage, problem)(*(x[:0] for x in given))
        except RuntimeError as error:
            raise AssertionError(f"{impl.op} {impl.name} {case.id}: {error}") from error
        assert [(x.shape, x.dtype) for x in got] == [((0, *x.shape[1:]), x.dtype) for x in want], case.id
