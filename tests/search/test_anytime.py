"""The best answer by a deadline: which stages run follows from the costs. Nothing is timed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError
from tests.support.networks.cascades import compiled, exits_of

HOUR_US = 3.6e9


@pytest.fixture(scope="module")
def stages() -> list[Any]:
    return [compiled(6, hidden, 3, seed) for seed, hidden in enumerate((4, 8, 16))]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("costs", "last"),
    [((1, 1, 1), 2), ((1, 1, 2 * HOUR_US), 1), ((1, 2 * HOUR_US, 1), 0), ((2 * HOUR_US,) * 3, 0)],
)
def test_a_stage_runs_where_its_cost_fits(stages: list[Any], costs: Any, last: int, rows: int) -> None:
    best = rt.Anytime(stages, HOUR_US, costs_us=costs)
    x = torch.randn(rows, 6)
    assert torch.equal(best(x), stages[last](x)) and exits_of(best).tolist() == [last] * rows
    out = torch.empty(rows, 3)
    best.bind(x, out=out)()
    assert torch.equal(out, stages[last](x)) and best.late == 0
    best.bind(x, out=out, worst=True)()
    assert torch.equal(out, stages[2](x))


def test_a_deadline_that_is_over_at_once(stages: list[Any]) -> None:
    best = rt.Anytime(stages, 0.001)
    x = torch.randn(1, 6)
    for calls in (1, 2, 3):
        assert torch.equal(best(x), stages[0](x)) and best.last_exit == 0 and best.late == calls


def test_costs_are_measured_for_each_number_of_rows(stages: list[Any]) -> None:
    best = rt.Anytime(stages, HOUR_US)
    assert best.costs_us() is None
    one, many = torch.randn(1, 6), torch.randn(300, 6)
    out_one, out_many = torch.empty(1, 3), torch.empty(300, 3)
    calls = [best.bind(one, out=out_one), best.bind(many, out=out_many)]
    for call in calls:
        call()
    assert torch.equal(out_one, stages[2](one)) and torch.equal(out_many, stages[2](many))
    assert best.costs_us() is not None and len(best.costs_us(300) or ()) == 3
    assert all(us > 0 for us in best.measure_costs(one))
    assert best(torch.empty(0, 6)).shape == (0, 3)


def test_streams_are_left_as_they_were_by_measuring() -> None:
    torch.manual_seed(2)
    tcn = torch.nn.Conv1d(4, 3, 5)
    model = torch.nn.Sequential(torch.nn.ConstantPad1d((4, 0), 0.0), tcn).eval()
    live, twin = (rt.stream(model, torch.randn(2, 4)) for _ in range(2))
    best = rt.Anytime([live], HOUR_US)
    for x in torch.randn(9, 2, 4):
        assert torch.equal(best(x), twin.step(x))


def test_bad_input(stages: list[Any]) -> None:
    for deadline in (0, -1, math.nan, math.inf, "soon", True):
        with pytest.raises(FormatError, match="deadline_us"):
            rt.Anytime(stages, deadline)
    with pytest.raises(FormatError, match="2 costs"):
        rt.Anytime(stages, 10, costs_us=[1, 2])
    with pytest.raises(FormatError, match="costs_us=0"):
        rt.Anytime(stages, 10, costs_us=[1, 2, 0])
