"""RNN with relu: against nn.RNN in float64, growing states, NaN, and schemes that it does not take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.kernels.recurrent.cases import make_inputs, make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from tests.support.one_stage import check_no_samples, check_samples_apart, runs
from tests.support.recurrent_stages import SHAPES, check_against_torch, check_compiled, check_streams_apart


class Relu(nn.RNN):
    """nn.RNN with its other function."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, nonlinearity="relu", **options)


@pytest.mark.parametrize("states", [True, False], ids=["states", "stateless"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_torch(shape: dict[str, Any], states: bool) -> None:
    check_against_torch(Relu, shape, states)


def test_samples_and_their_streams_are_apart() -> None:
    stage = make_stage("rnn_relu", 1, Geometry(9, layers=2, time=3), 5)
    check_samples_apart(stage, make_inputs(stage, 4, seed=1))
    check_no_samples(stage)
    check_streams_apart(make_stage("rnn_relu", 1, Geometry(9, time=4, batch=3), 5))


def test_states_grow_without_a_bound() -> None:
    """A weight of 2 doubles the state in each time step."""
    stage = make_stage("rnn_relu", 1, Geometry(3, time=20), 3, states=False, bias=False)
    stage.tensors["weight_ih_l0"][:], stage.tensors["weight_hh_l0"][:] = torch.eye(3), 2 * torch.eye(3)
    x = torch.zeros(1, 20, 3)
    x[0, 0] = torch.tensor([1.0, 0.5, -1.0])
    want = torch.tensor([1.0, 0.5, 0.0]) * 2.0 ** torch.arange(20)[:, None]
    for name, run in runs(stage, 1).items():
        assert torch.equal(run(x)[0][0], want), name


def test_a_nan_stays_one() -> None:
    stage = make_stage("rnn_relu", 1, Geometry(5, time=3), 4, states=False)
    x = torch.randn(2, 3, 4)
    x[1, 1, 2] = float("nan")
    for name, run in runs(stage, 2).items():
        (y,) = run(x)
        assert y[1, 1:].isnan().all() and y[0].isfinite().all() and y[1, 0].isfinite().all(), name


def test_compiled() -> None:
    check_compiled(Relu, rt.Float32())


@pytest.mark.parametrize("scheme", [rt.W8A8(), rt.W4A8(), rt.W8A16()], ids=str)
def test_whole_number_weights_are_not_for_it(scheme: rt.W8A8) -> None:
    """It says so, and stays float32."""
    model, x = Relu(6, 8, batch_first=True).eval(), torch.randn(4, 5, 6)
    fast = rt.compile(model, (x,), scheme, calibration=[x], strict=True)
    assert "is computed as float32" in fast.explain()
    torch.testing.assert_close(fast(x)[0], model(x)[0], rtol=1e-5, atol=1e-5)
    stage = make_stage("rnn_relu", 1, Geometry(8), 6, "int8-dynamic")
    with pytest.raises(rt.UnsupportedProblem, match="quantized weights"):
        operator("rnn_relu").reference(stage, *make_inputs(stage, 1, 0))
