"""Keep: what a call leaves for the next, and what a native plan holds before the first."""

from __future__ import annotations

import pytest
import torch

import rtaccel as rt
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.kernels._core.cpu import States, build
from rtaccel.kernels.keep import contract
from tests.support.one_stage import check_same


@pytest.mark.parametrize("case", list(contract.cases()), ids=lambda c: c.id)
def test_a_copy_to_the_bit(case) -> None:
    inputs = case.make(0)
    check_same(case.stage, inputs, (inputs[0],))


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize(("steps", "width"), [(1, 3), (4, 17), (2, 16)])
def test_a_plan_gives_what_the_call_before_got(dtype: str, samples: int, steps: int, width: int) -> None:
    """y is the state, x what becomes of it; the copy in between has rows of its own."""
    x, y, state = (Value(name, width, dtype, steps=steps) for name in ("x", "y", "state"))
    copy = Stage("rearrange", "copy", (state,), (y,), attrs={"rows": tuple(range(steps))})
    keep = contract.make_stage(steps, width, dtype)
    keep = Stage("keep", "keep", (x,), (state,), keep.tensors)
    plan = build(
        [(copy, "cpu_copy"), (keep, "cpu_copy")], [GraphIO.matrix(x)], [GraphIO.matrix(y)],
        states=States(frozenset({"state"}), samples, -1),
    )  # fmt: skip
    initial = keep.tensors["initial"].expand(samples, steps, width).reshape(samples, *x.shape)
    for _ in range(2):
        want = initial
        for _ in range(3):
            given = torch.randint(-9, 9, (samples, *x.shape)).to(initial.dtype)
            assert torch.equal(plan.call((given,)), want)
            want = given
        plan.reset(0, samples)
    if samples > 1:
        plan.call((given,))
        plan.reset(2, 1)
        got = plan.call((given,))
        assert torch.equal(got[2], initial[2]) and torch.equal(got[0], given[0])


def test_what_does_not_fit_is_refused() -> None:
    stage = contract.make_stage(2, 3)
    for tensors, y in (
        ({"initial": torch.zeros(5)}, stage.outputs[0]),
        ({"initial": torch.zeros(2, 3, dtype=torch.int64)}, stage.outputs[0]),
        (stage.tensors, Value("y", 2, steps=3)),
    ):
        with pytest.raises(rt.ShapeError, match="keep"):
            contract.lower(Stage("keep", "bad", stage.inputs, (y,), tensors))
    with pytest.raises(rt.FormatError):
        contract.check("load", stage, {"initial": torch.zeros(2, 3, dtype=torch.int64)})
