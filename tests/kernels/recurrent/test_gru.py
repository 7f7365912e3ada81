"""GRU: against nn.GRU in float64, one int8 step by its formula, saturation, streams apart. More: test_recurrent.py."""

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

GRU = operator("gru")


@pytest.mark.parametrize("states", [True, False], ids=["states", "stateless"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_torch(shape: dict[str, Any], states: bool) -> None:
    check_against_torch(nn.GRU, shape, states)


def formula(stage: Stage, x: Tensor, h: Tensor) -> Tensor:
    """One time step in float64 of the numbers that the int8 ones stand for. h takes steps of 1/127 in the product alone."""
    t, quant = stage.tensors, stage.inputs[0].quant
    weights = [t[n].double() * t[f"{n}_scale"].double()[:, None] for n in ("weight_ih_l0", "weight_hh_l0")]
    real, steps = (x.double() - quant.zero_point) * quant.scale, torch.round(h.double() * 127) / 127
    x_r, x_z, x_n = (real @ weights[0].T + t["bias_ih_l0"].double()).chunk(3, -1)
    h_r, h_z, h_n = (steps @ weights[1].T + t["bias_hh_l0"].double()).chunk(3, -1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    return (1 - z) * (x_n + r * h_n).tanh() + z * h.double()


@pytest.mark.parametrize(("hidden", "k"), [(1, 1), (17, 9), (40, 70)])
def test_one_int8_step_is_the_formula(hidden: int, k: int) -> None:
    """Within the error of tanh: half of it for a sigmoid, which r takes times what h adds to n. Kernels give the same bits."""
    stage = make_stage("gru", 3, Geometry(hidden), k, "int8-static", seed=k)
    x, h = make_inputs(stage, 4, seed=hidden)
    want = formula(stage, x, h)
    results = {name: run(x, h) for name, run in runs(stage, 4).items()}
    for name, (y, hn) in results.items():
        assert same(y, results["reference"][0]) and same(y, hn), name
        assert (y.double() - want).abs().max() <= 4 * TANH_ERROR + 1e-5, name


@pytest.mark.parametrize("form", FORMS)
def test_samples_are_apart(form: str) -> None:
    stage = make_stage("gru", 3, Geometry(9, layers=2, time=3), 5, form)
    check_samples_apart(stage, make_inputs(stage, 4, seed=1))
    check_no_samples(stage)


@pytest.mark.parametrize("form", FORMS)
def test_streams_of_a_sample_are_apart(form: str) -> None:
    check_streams_apart(make_stage("gru", 3, Geometry(9, time=4, batch=3), 5, form))


@pytest.mark.parametrize("form", ["float32", "int8-dynamic"])
def test_large_inputs_saturate(form: str) -> None:
    """h is between its last value and -1 or 1."""
    check_saturates(make_stage("gru", 3, Geometry(9, time=6), 5, form, states=False))


@pytest.mark.parametrize("scheme", [rt.Float32(), rt.W8A8("dynamic"), rt.W4A8(32, "dynamic")], ids=str)
def test_compiled(scheme: Any) -> None:
    check_compiled(nn.GRU, scheme)


def test_what_is_refused() -> None:
    good = make_stage("gru", 3, Geometry(8, time=2), 5, "int8-dynamic")
    (x, h0), (y, hn) = good.inputs, good.outputs
    for change, words in (
        ({"inputs": (x, h0, h0)}, "gru: got 2 states; expected 0 or 1"),
        ({"outputs": (y, hn, hn)}, "expected 0 or 1"),
        ({"inputs": (Value("x", 5, steps=3), h0)}, "x of 3 rows by 5; expected 2 by 5"),
        ({"inputs": (x, Value("h0", 7))}, "a state of 1 rows by 7; expected 1 by 8"),
        ({"outputs": (Value("y", 16, steps=2), hn)}, "y of 2 rows by 16; expected 2 by 8"),
        ({"inputs": (Value("x", 70_000, steps=2), h0)}, "70000 inputs, 8 units; expected at most 65536"),
    ):
        with pytest.raises(rt.UnsupportedProblem, match=words):
            GRU.lower(replace(good, **change))
    for scale in (0.0, -0.1, float("nan"), 2.0**21):
        with pytest.raises(rt.FormatError, match="gru: got h_scale"):
            GRU.lower(replace(good, attrs={**good.attrs, "h_scale": scale}))
