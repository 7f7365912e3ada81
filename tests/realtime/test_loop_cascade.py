"""A cascade in a loop: as its model and as its fallback, with the same answers as a call. Nothing is timed."""

from __future__ import annotations

import time
import warnings
from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from tests.support.networks.cascades import compiled

SLACK: dict[str, Any] = {"period_us": 2000, "deadline_us": 2000, "on_miss": "late", "on_stale": "fallback"}


def made() -> list[Any]:
    return [compiled(7, 9, 5, 1), compiled(7, 33, 5, 2)]


def origin(y: Any, wanted: str) -> Any:
    end = time.monotonic() + 60
    while (sample := y.get()).status == "none" or sample.origin != wanted:
        assert time.monotonic() < end
        time.sleep(0.001)
    return sample


@pytest.mark.parametrize("where", ["model", "fallback"])
def test_the_answers_are_those_of_a_call(where: str) -> None:
    stages = made()
    inputs = torch.randn(6, 7)
    scores = torch.cat([rt.Exit(above=0).scores(stages[0](x[None])) for x in inputs])
    cascade = rt.Cascade(stages, [float(scores.quantile(0.5))])
    want = [cascade(x[None])[0] for x in inputs]
    exits = {int(cascade(x[None]) is not None and cascade.last_exit) for x in inputs}
    assert exits == {0, 1}
    for x, expected in zip(inputs, want):
        into, out = rt.Latest((7,)), rt.Latest((5,))
        model = cascade if where == "model" else compiled(7, 3, 5, 3)
        max_age = 60e6 if where == "model" else 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*the system refused.*")
            into.put(x)
            loop = rt.Loop(model, into, out, fallback=cascade, max_age_us=max_age, **SLACK)
            with loop:
                sample = origin(out, "fresh" if where == "model" else "fallback")
                with pytest.raises(UnsupportedProblem):
                    stages[0](x[None])
        assert torch.equal(torch.tensor(sample.value), expected)
    assert torch.equal(cascade(inputs[:1])[0], want[0])  # free again


def test_what_a_loop_refuses() -> None:
    stages = made()
    into, out = rt.Latest((7,)), rt.Latest((5,))
    with pytest.raises(UnsupportedProblem, match="a test in Python"):
        rt.Loop(rt.Cascade(stages, [rt.Exit(lambda y: 1.0, above=0)]), into, out)
    with pytest.raises(ShapeError):
        rt.Loop(rt.Cascade(stages, [0.5]), rt.Latest((8,)), out)
