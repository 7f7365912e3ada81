"""Linear scan: against the recurrence in float64 over odd lines and layouts, steps of a stream, NaN, bad shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.linear_scan import contract
from tests.support.one_stage import NAN, check_no_samples, check_samples_apart, kernels, runs

LAYOUTS = ("rows", "lines", "between", "repeated")


def logical(stage: Stage, x: Tensor, operand: int) -> Tensor:
    """[M, lines, steps] of an operand that is no constant."""
    dims, place = stage.attrs["dims"], stage.attrs["places"][operand]
    made = torch.empty(x.shape[0], *dims)
    flat = x.reshape(x.shape[0], -1)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in dims)).reshape(-1, len(dims)).tolist():
        made[(slice(None), *index)] = flat[:, place[0] + sum(i * s for i, s in zip(index, place[1:]))]
    return made.flatten(1, -2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("steps", "lines"), [(1, 4), (3, 20), (40, 8), (9, 76), (100, 12), (5, 132)])
def test_is_the_recurrence(steps: int, lines: int, layout: str) -> None:
    torch.manual_seed(steps)
    stage = contract.make_stage(steps, lines, layout)
    a, b = torch.rand(2, *stage.inputs[0].shape) * 1.5 - 0.25, torch.randn(2, *stage.inputs[1].shape)
    factors, added = logical(stage, a, 0).double(), logical(stage, b, 1).double()
    h, want = torch.zeros_like(added[..., 0]), []
    for t in range(steps):
        h = factors[..., t] * h + added[..., t]
        want.append(h)
    for name, run in runs(stage, 2).items():
        got = logical(stage, run(a, b)[0], 2).double()
        torch.testing.assert_close(got, torch.stack(want, -1), rtol=2e-5, atol=2e-5, msg=name)


@pytest.mark.parametrize("layout", ["rows", "between"])
@pytest.mark.parametrize("constant", [False, True])
def test_steps_of_a_stream_are_the_scan(layout: str, constant: bool) -> None:
    """With the result of a step as the state of the next; where it is constant, a is the same for all steps."""
    torch.manual_seed(1)
    step, rows = contract.make_stage(1, 36, layout, constant, stream=True), 3
    for name, run in runs(step, rows).items():
        h, exact = torch.zeros(rows, *step.outputs[0].shape), torch.zeros(rows, *step.outputs[0].shape).double()
        for _ in range(20):
            inputs = [torch.randn(rows, *v.shape) * 0.9 for v in step.inputs[:-1]]
            y, h = run(*inputs, h)
            assert torch.equal(y, h), name
            factor = step.tensors["a"].reshape(step.outputs[0].shape) if constant else inputs[0]
            exact = factor.double() * exact + inputs[-1].double()
            torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5, msg=name)


def test_samples_are_apart_and_nan_goes_on() -> None:
    stage = contract.make_stage(6, 20)
    a, b = torch.rand(3, 6, 20), torch.randn(3, 6, 20)
    check_samples_apart(stage, (a, b))
    check_no_samples(stage)
    bad = b.clone()
    bad[1, 2, 7] = NAN
    for name, run in runs(stage, 3).items():
        got = run(a, bad)[0]
        assert got[1, 2:, 7].isnan().all() and int(got.isnan().sum()) == 4, name


BAD = {
    "a place outside": {"places": ((0, 1, 20), (0, 1, 21), (0, 1, 20))},
    "too few places": {"places": ((0, 1, 20), (0, 1, 20))},
    "other sizes": {"dims": (20, 5)},
    "no sizes": {"dims": (), "places": ((0,), (0,), (0,))},
    "a stream of several steps": {"stream": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_stages_that_do_not_fit(name: str) -> None:
    good = contract.make_stage(6, 20)
    bad = Stage(good.op, "bad", good.inputs, good.outputs, {}, {**good.attrs, **BAD[name]})
    for refuse in (operator(good.op).lower, kernels):
        with pytest.raises(rt.ShapeError, match="linear_scan"):
            refuse(bad)


def test_a_state_of_another_shape() -> None:
    good = contract.make_stage(1, 20, stream=True)
    bad = Stage(good.op, "bad", (*good.inputs[:2], Value("h", 19)), good.outputs, {}, good.attrs)
    with pytest.raises(rt.ShapeError, match="linear_scan"):
        kernels(bad)


@pytest.mark.parametrize("count", [1, 4, 7, 36])
def test_a_state_in_float64_counts_on(count: int) -> None:
    """From 2^25 on float32 would stand still where 1 is added to it. The state may lie over the one before."""
    step = contract.make_stage(1, count, stream=True, wide=True)
    one = torch.ones(2, *step.outputs[0].shape)
    begun = torch.full_like(one, 2.0**25, dtype=torch.float64) + torch.arange(count)
    for name, run in runs(step, 2).items():
        h = begun.view(torch.int64)
        for _ in range(3):
            y, h = run(one, one, h)
        assert torch.equal(h.view(torch.float64), begun + 3), name
        assert torch.equal(y, (begun + 3).float()), name
