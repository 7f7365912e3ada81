"""Threads of an LSTM or GRU, which take the units of each time step: the same bits for any number."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import rtaccel as rt

CORES = len(os.sched_getaffinity(0))
counts = [pytest.param(n, marks=pytest.mark.skipif(n > CORES, reason=f"needs {n} cores")) for n in (2, 3, 4)]

SHAPES = {  # inputs, units, layers, both ways, time steps, batch: of more than a line of units, with odd rests
    "one step": (70, 421, 1, False, 1, 1),
    "layers": (33, 390, 2, False, 5, 1),
    "both ways": (130, 261, 2, True, 7, 1),
    "some rows": (64, 321, 1, False, 3, 5),
}


class Last(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], inputs: int, units: int, layers: int, both: bool) -> None:
        super().__init__()
        self.core = kind(inputs, units, layers, batch_first=True, bidirectional=both)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.core(x)[0]


@pytest.mark.parametrize("threads", counts)
@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w4a8"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_threads(shape: str, kind: type[nn.RNNBase], scheme: str, threads: int) -> None:
    inputs, units, layers, both, steps, batch = SHAPES[shape]
    if scheme == "w4a8":  # half the bytes: with a fast dot product threads pay later
        units = 2 * units + 1
    torch.manual_seed(units)
    model, x = Last(kind, inputs, units, layers, both).eval(), torch.randn(batch, steps, inputs)
    calibration = None if scheme == "float32" else [torch.randn(4, steps, inputs)]
    one, many = (rt.compile(model, (x,), scheme, calibration=calibration, threads=n) for n in (1, threads))
    plan = many._executor.native_plans[0]
    stages = len(many.explain_lines(measure=False))
    assert max(plan.parts(stage, batch) for stage in range(stages)) > 1
    assert max(plan.parts(stage, batch) for stage in range(stages)) <= threads
    for repeat in range(12):  # the first ones with the worker asleep
        x.normal_()
        if repeat == 7:
            x[-1, -1, 3] = torch.nan
        assert torch.equal(one(x).nan_to_num(1e30), many(x).nan_to_num(1e30))


@pytest.mark.parametrize("threads", counts)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_stream_has_the_same_past(kind: type[nn.RNNBase], threads: int) -> None:
    model, example = Last(kind, 40, 520, 2, False).eval(), torch.randn(1, 40)
    calibration = [torch.randn(2, 30, 40)]
    one, many = (rt.stream(model, example, scheme="w8a8", calibration=calibration, threads=n) for n in (1, threads))
    for _ in range(25):
        x = torch.randn(1, 40)
        assert torch.equal(one.step(x), many.step(x))
    one.reset()
    many.reset()
    assert torch.equal(one.step(x), many.step(x))


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_small_ones_are_not_shared() -> None:
    x = torch.randn(1, 4, 14)
    fast = rt.compile(Last(nn.GRU, 14, 64, 1, False).eval(), (x,), threads=2)
    plan = fast._executor.native_plans[0]
    assert {plan.parts(stage, 1) for stage in range(-1, len(fast.explain_lines(measure=False)))} == {1}
