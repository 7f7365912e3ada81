"""Linear: every weight format against a float64 product of decoded numbers; int8 to the bit; ends of the range; refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.kernels.linear import contract, contract_weights
from tests.support import decoded
from tests.support.networks.int8_layers import same
from tests.support.one_stage import (
    INF,
    NAN,
    check_no_samples,
    check_same,
    check_samples_apart,
    compiled_both,
    kernels,
    runs,
)

EPS = torch.finfo(torch.float32).eps
SIZES = [(1, 1, 1), (3, 5, 7), (2, 17, 33), (4, 70, 131), (19, 9, 260)]
KINDS = ("float32", "static", "dynamic", *contract_weights.KINDS)


def stage_of(kind: str, k: int, n: int, **options: Any) -> Stage:
    make = contract_weights.make_stage if kind in contract_weights.KINDS else contract.make_stage
    return make(k, n, kind, seed=k + n, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_against_a_float64_product(rows: int, n: int, k: int, kind: str) -> None:
    """A sum of K products in any order and four roundings around it. Beside smaller weights a float32 x may be rounded to
    bfloat16, or to 65,278 half steps of the row's largest number."""
    stage = stage_of(kind, k, n)
    inputs = contract.make_inputs(stage, rows, seed=rows * n + k)
    want, size = decoded.real_layer(stage, *inputs)
    rounded = torch.zeros_like(want)
    if kind in ("bfloat16", "w8a16", "w4a16"):
        x = inputs[0].double().abs()
        step = torch.maximum(x * 2.0**-8, x.amax(1, keepdim=True) / 65_278)
        rounded = step @ decoded.real_weight(stage).abs().T
    for name, run in runs(stage, rows).items():
        error = (run(*inputs)[0].double() - want).abs()
        bound = 4 * EPS * size if name == "reference" else EPS * (k + 4) * size + rounded
        assert (error <= bound).all(), f"{name}: {(error - bound).max()} over"


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize(("scheme", "out"), [("static", "float32"), ("static", "int8"), ("dynamic", "float32")])
@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_int8_is_the_formula(rows: int, n: int, k: int, scheme: str, out: str, activation: str) -> None:
    stage = stage_of(scheme, k, n, activation=activation, out=out)
    inputs = contract.make_inputs(stage, rows, seed=k)
    check_same(stage, inputs, (decoded.int8_layer(stage, stage.tensors["weight"], *inputs),))


@pytest.mark.parametrize("group_size", [16, 48, 128])
def test_groups_of_int4(group_size: int) -> None:
    """The last group is shorter; each has its scale, of either sign."""
    stage = stage_of("w4a8-static", 133, 21, group_size=group_size)
    (x,) = contract.make_inputs(stage, 5, seed=1)
    want, size = decoded.real_layer(stage, x)
    assert stage.tensors["group_scale"].min() < 0 < stage.tensors["group_scale"].max()
    for name, run in runs(stage, 5).items():
        assert ((run(x)[0].double() - want).abs() <= EPS * 16 * size).all(), name


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
@pytest.mark.parametrize("end", [-128, 127])
def test_the_largest_sums_fit(end: int, zero_point: int) -> None:
    """K at its bound, every number at its end: the sum reaches 65,536 * 255 * 127, below 2^31."""
    k = contract.MAX_K
    weight = torch.tensor([[-127], [127]], dtype=torch.int8).expand(2, k).contiguous()
    tensors = {"weight": weight, "weight_scale": torch.ones(2), "bias": torch.zeros(2)}
    x, y = Value("x", k, "int8", QParams(1.0, zero_point)), Value("y", 2)
    stage = Stage("linear", "l", (x,), (y,), tensors, {"activation": "none"})
    total = float(k * (end - zero_point) * 127)
    check_same(stage, (torch.full((1, k), end, dtype=torch.int8),), (torch.tensor([[0.0 - total, total]]),))


def test_int8_results_are_clamped() -> None:
    tensors = {
        "weight": torch.tensor([[127], [-127], [1]], dtype=torch.int8),
        "weight_scale": torch.ones(3),
        "bias": torch.zeros(3),
    }
    x, y = Value("x", 1, "int8", QParams(1.0, 0)), Value("y", 3, "int8", QParams(2.0, 1))
    stage = Stage("linear", "l", (x,), (y,), tensors, {"activation": "none"})
    given = torch.tensor([[127], [-128], [1], [3]], dtype=torch.int8)
    want = torch.tensor([[127, -128, 65], [-128, 127, -63], [65, -63, 1], [127, -128, 3]], dtype=torch.int8)
    check_same(stage, (given,), (want,))  # 63.5 goes to 64, -63.5 to -64, 0.5 to 0, 1.5 to 2; then the zero point


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_apart(kind: str) -> None:
    stage = stage_of(kind, 37, 11)
    check_samples_apart(stage, contract.make_inputs(stage, 5, seed=2))
    check_no_samples(stage)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_float_row_that_is_not_finite(bad: float) -> None:
    """float32 goes where the product takes it: a NaN everywhere, an infinity with the sign of the weight."""
    stage = stage_of("float32", 9, 5)
    x = torch.randn(3, 9)
    x[1, 4] = bad
    sign = stage.tensors["weight"][:, 4].sign()
    for name, run in runs(stage, 3).items():
        y = run(x)[0]
        assert same(y[1], sign * bad) or (bad != bad and y[1].isnan().all()), name
        assert torch.isfinite(y[[0, 2]]).all(), name


def test_no_bias_is_a_bias_of_zero() -> None:
    for kind in KINDS:
        stage = stage_of(kind, 21, 6)
        tensors = {**stage.tensors, "bias": torch.zeros(6)}
        without = {name: t for name, t in tensors.items() if name != "bias"}
        inputs = contract.make_inputs(stage, 3, seed=3)
        plain, zero = (
            runs(Stage("linear", "l", stage.inputs, stage.outputs, t, stage.attrs), 3) for t in (without, tensors)
        )
        for name, run in plain.items():
            assert torch.equal(run(*inputs)[0], zero[name](*inputs)[0]), f"{kind} {name}"


@pytest.mark.parametrize("scheme", [rt.Float32(), rt.W8A8("static"), rt.W8A8("dynamic")], ids=str)
def test_compiled(scheme: Any) -> None:
    model = nn.Sequential(nn.Linear(37, 20), nn.ReLU(), nn.Linear(20, 5))
    calibration = [torch.randn(64, 37)] if scheme == rt.W8A8("static") else None
    native, plain, found = compiled_both(model, (torch.randn(2, 37),), scheme, calibration=calibration)
    assert found.count("linear") == 2
    for rows in (0, 1, 2, 40):
        x = torch.randn(rows, 37)
        if scheme == rt.Float32():
            torch.testing.assert_close(native(x), model(x).detach(), rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(native(x), plain(x))
    with pytest.raises(rt.ShapeError, match="37"):
        native(torch.randn(2, 36))


def _int4(k: int, group_size: object, scale: Tensor) -> Stage:
    x, y = Value("x", k, "int8", QParams(1.0, 0)), Value("y", 1)
    packed = torch.full((1, (k + 1) // 2), 0x88, dtype=torch.uint8)
    return Stage("linear", "l", (x,), (y,), {"weight": packed, "group_scale": scale}, {"group_size": group_size})


@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        (_int4(32, 17, torch.ones(1, 2)), rt.FormatError, "group_size=17; expected a multiple of 16"),
        (_int4(32, None, torch.ones(1, 2)), rt.FormatError, "group_size=None"),
        (_int4(32, 512, torch.ones(1, 1)), rt.FormatError, "group_size=512; .*from 16 to 256"),
        (_int4(33, 16, torch.ones(1, 2)), rt.FormatError, r"group_scale \[1, 2\]; expected .*\[1, 3\] for K = 33"),
        (_int4(32, 16, torch.tensor([[1.0, NAN]])), rt.FormatError, "group_scale with a NaN or infinity"),
        (_int4(32, 16, torch.tensor([[1.0, 0.0]])), rt.FormatError, r"at least 2\^-120"),
        (_int4(32, 16, torch.tensor([[1.0, 1 + EPS]])), rt.FormatError, "bfloat16 does not represent"),
    ],
)
def test_formats_that_are_refused(stage: Stage, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"linear: .*{words}"):
        operator("linear").lower(stage)


def test_sums_that_could_overflow_are_refused() -> None:
    k = contract.MAX_K + 1
    tensors = {"weight": torch.zeros(1, k, dtype=torch.int8), "weight_scale": torch.ones(1)}
    x = Value("x", k, "int8", QParams(1.0, 0))
    with pytest.raises(rt.UnsupportedProblem, match="K = 65537; expected K <= 65536"):
        operator("linear").lower(Stage("linear", "l", (x,), (Value("y", 1),), tensors))
    tensors["weight"] = torch.zeros(1, k)  # float32 sums cannot
    operator("linear").lower(Stage("linear", "l", (Value("x", k),), (Value("y", 1),), tensors))


@pytest.mark.parametrize(
    ("x", "y", "tensors", "words"),
    [
        (Value("x", 6), Value("y", 4), {"weight": torch.ones(4, 5)}, "'weight' has .*20 elements.*, expected .*24"),
        (Value("x", 5), Value("y", 3), {"weight": torch.ones(4, 5)}, "'weight' has .*20 elements.*, expected .*15"),
        (Value("x", 5), Value("y", 4), {"weight": torch.ones(4, 5), "bias": torch.ones(3)}, "'bias' has .*3 elements"),
        (Value("x", 5, "int8", QParams(1.0, 0)), Value("y", 4), {"weight": torch.ones(4, 5)}, "different dtypes"),
        (Value("x", 5), Value("y", 4, "int8", QParams(1.0, 0)), {"weight": torch.ones(4, 5)}, "has no int8 output"),
    ],
)
def test_values_that_do_not_fit(x: Value, y: Value, tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(rt.UnsupportedProblem, match=words):
        kernels(Stage("linear", "l", (x,), (y,), tensors))
