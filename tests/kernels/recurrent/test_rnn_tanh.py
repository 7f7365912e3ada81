"""RNN with tanh: against nn.RNN in float64, one int8 step by its formula, saturation, streams apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.recurrent.cases import make_inputs, make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.reference import TANH_ERROR
from tests.support.networks.int8_layers import same
from tests.support.one_stage import check_no_samples, check_samples_apart, runs
from tests.support.recurrent_stages import (
    FORMS,
    SHAPES,
    check_against_torch,
    check_compiled,
    check_saturates,
    check_streams_apart,
)  # fmt: skip


@pytest.mark.parametrize("states", [True, False], ids=["states", "stateless"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_torch(shape: dict[str, Any], states: bool) -> None:
    check_against_torch(nn.RNN, shape, states)


def formula(stage: Stage, x: Tensor, h: Tensor) -> Tensor:
    """One time step in float64 of the numbers that the int8 ones stand for. h takes steps of 1/127."""
    t, quant = stage.tensors, stage.inputs[0].quant
    weights = [t[n].double() * t[f"{n}_scale"].double()[:, None] for n in ("weight_ih_l0", "weight_hh_l0")]
    real, steps = (x.double() - quant.zero_point) * quant.scale, torch.round(h.double() * 127) / 127
    sums = real @ weights[0].T + t["bias_ih_l0"].double() + steps @ weights[1].T + t["bias_hh_l0"].double()
    return sums.tanh()


@pytest.mark.parametrize(("hidden", "k"), [(1, 1), (17, 9), (40, 70)])
def test_one_int8_step_is_the_formula(hidden: int, k: int) -> None:
    """Within the error of tanh. Kernels give the same bits."""
    stage = make_stage("rnn_tanh", 1, Geometry(hidden), k, "int8-static", seed=k)
    x, h = make_inputs(stage, 4, seed=hidden)
    want = formula(stage, x, h)
    results = {name: run(x, h) for name, run in runs(stage, 4).items()}
    for name, (y, hn) in results.items():
        assert same(y, results["reference"][0]) and same(y, hn), name
        assert (y.double() - want).abs().max() <= TANH_ERROR + 1e-5, name


@pytest.mark.parametrize("form", FORMS)
def test_samples_and_their_streams_are_apart(form: str) -> None:
    stage = make_stage("rnn_tanh", 1, Geometry(9, layers=2, time=3), 5, form)
    check_samples_apart(stage, make_inputs(stage, 4, seed=1))
    check_no_samples(stage)
    check_streams_apart(make_stage("rnn_tanh", 1, Geometry(9, time=4, batch=3), 5, form))


@pytest.mark.parametrize("form", ["float32", "int8-dynamic"])
def test_large_inputs_saturate(form: str) -> None:
    """h is between -1 and 1."""
    check_saturates(make_stage("rnn_tanh", 1, Geometry(9, time=6), 5, form, states=False))


@pytest.mark.parametrize("scheme", [rt.Float32(), rt.W8A8("dynamic"), rt.W4A8(32, "dynamic")], ids=str)
def test_compiled(scheme: Any) -> None:
    check_compiled(nn.RNN, scheme)


def test_calibration_gives_h_its_scale() -> None:
    """h of both layers stays well below 1 here, and its steps are finer for it."""
    model, data = nn.RNN(6, 16, 2, batch_first=True).eval(), [torch.randn(32, 9, 6) * 0.1]
    fast = rt.compile(model, (data[0],), rt.W8A8(), calibration=data)
    (stage,) = (s for s in fast._program.stages if s.op == "rnn_tanh")
    assert 0 < stage.attrs["h_scale"] < 0.9 / 127
    want, got = model(data[0])[0], fast(data[0])[0]
    assert (want - got).square().mean().sqrt() <= 0.02 * want.square().mean().sqrt()


def test_what_is_refused() -> None:
    good = make_stage("rnn_tanh", 1, Geometry(8, time=2), 5, "int8-dynamic")
    x, h0 = good.inputs
    for change, words in (
        ({"inputs": (x, h0, h0)}, "rnn_tanh: got 2 states; expected 0 or 1"),
        ({"inputs": (x, Value("h0", 7))}, "a state of 1 rows by 7; expected 1 by 8"),
    ):
        with pytest.raises(rt.UnsupportedProblem, match=words):
            operator("rnn_tanh").lower(replace(good, **change))
