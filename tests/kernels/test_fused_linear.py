"""Fused linear: the bits of quantize, linear, residual and requantize one after another; float8; what does not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.kernels.fused_linear.contract import KINDS, make_inputs, make_stage
from tests.support.networks.int8_layers import same
from tests.support.one_stage import INF, NAN, check_no_samples, check_same, check_samples_apart, runs

EPS = torch.finfo(torch.float32).eps
FUSED, LINEAR, QUANTIZE = (operator(name) for name in ("fused_linear", "linear", "quantize"))
SIZES = [(1, 1, 1), (2, 5, 35), (3, 17, 130), (6, 33, 64)]


def apart(stage: Stage, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """The same by the operators that it stands for, each with the reference of its own contract."""
    k, n = stage.inputs[0].width, stage.outputs[0].width
    inputs, given = stage.inputs[:1], (x,)
    if stage.attrs["input_format"] == "int8":
        inputs = Value("q", k, "int8"), Value("s", 1)
        given = QUANTIZE.reference(Stage("quantize", "q", stage.inputs[:1], inputs), x)
    if stage.attrs["input_format"] == "static":
        quant = QParams(stage.attrs["x_scale"], stage.attrs["x_zero_point"])
        inputs = (Value("q", k, "int8", quant),)
        given = QUANTIZE.reference(Stage("quantize", "q", stage.inputs[:1], inputs), x)
    (a,) = LINEAR.reference(Stage("linear", "l", inputs, (Value("a", n),), stage.tensors, stage.attrs), *given)
    total = a if residual is None else torch.from_numpy(a.numpy() + residual.numpy())
    quant = stage.outputs[0].quant
    if quant is None:
        return total
    steps = np.rint((total.numpy() * (np.float32(1) / np.float32(quant.scale))).astype(np.float64)) + quant.zero_point
    return torch.from_numpy(np.clip(steps, -128, 127).astype(np.int8))


@pytest.mark.parametrize("out", ["float32", "int8"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "float8"])
def test_is_its_operators_one_after_another(kind: str, activation: str, residual: bool, out: str) -> None:
    for rows, n, k in SIZES:
        stage = make_stage(k, n, kind, activation, 0.0, residual, out)
        inputs = make_inputs(stage, rows, seed=k)
        assert same(FUSED.reference(stage, *inputs)[0], apart(stage, *inputs)), (rows, n, k)


@pytest.mark.parametrize("kind", ["w8a8-static", "w8a8-rows", "w8a8-inside", "w4a8-inside"])
def test_plain_torch_gives_the_same_bits(kind: str) -> None:
    for rows, n, k in SIZES:
        stage = make_stage(k, n, kind, "relu", 0.0, True, "int8")
        inputs = make_inputs(stage, rows, seed=n)
        check_same(stage, inputs, (apart(stage, *inputs),))


def float8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The e4m3 number nearest to x * (448 / max |x|), of the list of all; of two as near, the one with an even last bit."""
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = {v: i % 2 for i, v in enumerate(every.tolist()) if v == v}  # value -> last bit
    rows, scales = [], []
    for row in x.numpy():
        peak = np.abs(row).max()
        scaled = (row * (np.float32(448) / peak)).tolist()
        rows.append([min(numbers, key=lambda v: (abs(v - t), numbers[v])) for t in scaled])
        scales.append([peak / np.float32(448)])
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(np.array(scales))


@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_float8_against_a_float64_product(rows: int, n: int, k: int) -> None:
    stage = make_stage(k, n, "float8")
    x = torch.randn(rows, k) * 3
    q, row_scale = float8_rows(x)
    weight, scale = stage.tensors["weight"].double(), stage.tensors["weight_scale"].double() * row_scale.double()
    bias = stage.tensors["bias"].double()
    want, size = (q @ weight.T) * scale + bias, (q.abs() @ weight.abs().T) * scale + bias.abs()
    for name, run in runs(stage, rows).items():
        bound = (2 if name == "reference" else k + 4) * EPS * size
        assert ((run(x)[0].double() - want).abs() <= bound).all(), name


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("kind", ["w8a8-rows", "w4a8-rows", "float8", "w8a8-inside", "w4a8-inside"])
def test_a_bad_row_is_nan_and_a_bad_residual_one_number(kind: str, bad: float) -> None:
    stage = make_stage(37, 11, kind, "none", 0.0, True)
    x, residual = make_inputs(stage, 4, seed=3)
    x[1, 36], residual[2, 5] = bad, bad
    for name, run in runs(stage, 4).items():
        y = run(x, residual)[0]
        assert y[1].isnan().all(), name
        assert same(y[2, 5], torch.tensor(bad)), name
        y[2, 5] = 0
        assert torch.isfinite(y[[0, 2, 3]]).all(), name


@pytest.mark.parametrize("kind", ["w8a8-inside", "w4a8-inside"])
def test_a_bad_row_counts_as_zeros_of_int8_where_y_is_int8(kind: str) -> None:
    stage = make_stage(37, 11, kind, "relu", out="int8")
    (x,) = make_inputs(stage, 3, seed=3)
    zero_point = QParams(stage.attrs["x_scale"], stage.attrs["x_zero_point"])
    x[1, 5] = NAN
    plain = Stage("linear", "l", (Value("q", 37, "int8", zero_point),), stage.outputs, stage.tensors, stage.attrs)
    zeros = LINEAR.reference(plain, torch.zeros(1, 37, dtype=torch.int8))[0]
    for name, run in runs(stage, 3).items():
        assert same(run(x)[0][1:2], zeros), name


def test_a_row_of_zeros_leaves_the_bias() -> None:
    for kind in ("w8a8-rows", "w4a8-rows", "float8"):
        stage = make_stage(37, 11, kind)
        check_same(stage, (torch.zeros(2, 37),), (stage.tensors["bias"].expand(2, 11),))


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_apart(kind: str, residual: bool) -> None:
    stage = make_stage(37, 11, kind, "relu", 0.0, residual)
    check_samples_apart(stage, make_inputs(stage, 4, seed=5))
    check_no_samples(stage)


@pytest.mark.parametrize(
    ("kind", "how", "words"),
    [
        ("float8", "none", "input_format='none' with float8 weights"),
        ("float8", "int8", "input_format='int8' with float8 weights"),
        ("w8a8-rows", "float8", "input_format='float8' with int8 weights"),
        ("w4a8-rows", "float8", "input_format='float8' with int4 weights"),
        ("bfloat16", "int8", "input_format='int8' with bfloat16 weights"),
        ("w8a8-rows", "rows", "input_format='rows'.*none, int8, static or float8"),
    ],
)
def test_inputs_that_do_not_go_with_the_weights(kind: str, how: str, words: str) -> None:
    good: Any = make_stage(32, 4, kind)
    with pytest.raises(rt.FormatError, match=f"fused_linear: got {words}"):
        FUSED.lower(replace(good, attrs={**good.attrs, "input_format": how}))


def test_what_linear_refuses_is_refused_here() -> None:
    good = make_stage(64, 4, "w4a8-rows")
    with pytest.raises(rt.FormatError, match="group_size=17"):
        FUSED.lower(replace(good, attrs={**good.attrs, "group_size": 17}))
    tensors = {"weight": torch.zeros(1, 65_537, dtype=torch.int8), "weight_scale": torch.ones(1)}
    x, y = Value("x", 65_537), Value("y", 1, "int8", QParams(1.0, 0))
    with pytest.raises(rt.UnsupportedProblem, match="K = 65537"):
        FUSED.lower(Stage("fused_linear", "f", (x,), (y,), tensors, {"input_format": "int8"}))
