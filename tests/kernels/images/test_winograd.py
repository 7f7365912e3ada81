"""Winograd's form of 3 x 3 convolutions: where it is taken, its error and its bound, what is not finite, and `exact=True`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
import rtaccel._native as native
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, QParams, Stage
from rtaccel.kernels.conv import winograd
from rtaccel.kernels.conv.cases import SHAPES, WINOGRAD, Shape, make_inputs, make_stage

CONV = operator("conv")
KERNELS = [i for i in impls("cpu", "conv") if not native.reject("conv", i.name, {"weight_dtype": "float32"})]
FORMS = pytest.mark.parametrize("m", [2, 4])


def form(stage: Stage, m: int) -> Stage:
    return replace(stage, attrs={**stage.attrs, "winograd": m})


def run(stage: Stage, *inputs: Tensor) -> list[Tensor]:
    """What each kernel gives."""
    problem = Problem.of(stage, inputs[0].shape[0])
    return [impl.prepare(stage, problem)(*inputs)[0] for impl in KERNELS]


def net(channels: int = 32, size: int = 16) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return nn.Conv2d(channels, channels, 3, padding=1).eval(), torch.randn(2, channels, size, size)


# -- where -------------------------------------------------------------------------------------------------------------


def test_sizes_where_it_is_faster() -> None:
    assert winograd.best(64, 64, (56, 56)) == winograd.best(64, 64, (14, 14)) == 4
    assert (
        winograd.best(128, 128, (8, 8)) == winograd.best(192, 192, (14, 14)) == winograd.best(256, 256, (12, 12)) == 4
    )
    assert winograd.best(256, 256, (8, 8)) == 2, "weights of F(4 x 4) are large for so few positions"
    assert winograd.best(64, 64, (4, 4)) == winograd.best(256, 256, (4, 4)) == 2
    assert winograd.best(512, 512, (7, 7)) == winograd.best(256, 256, (3, 3)) == 0, "few positions"
    assert winograd.best(8, 64, (56, 56)) == winograd.best(64, 8, (56, 56)) == 0, "the transforms are most of it"
    assert winograd.best(64, 64, (1, 100)) == 0, "three of four rows of a tile are none"
    assert winograd.best(64, 64, (28, 28), (2, 2)) == winograd.best(512, 512, (28, 28), (4, 4)) == 4
    assert winograd.best(64, 64, (28, 28), (6, 6)) == 0, "four of ten positions of the last tiles are none"
    assert winograd.best_line(64, 64, (1, 64), 1, 1) == winograd.best_line(64, 64, (64, 3), 0, 4) == 4
    assert winograd.best_line(256, 256, (1, 16), 1, 1) == 4
    assert winograd.best_line(16, 16, (1, 500), 1, 1) == 0, "the transforms are much of it"
    assert winograd.best_line(512, 512, (1, 16), 1, 1) == 0, "weights are large for so few positions"
    assert winograd.best_line(64, 64, (1, 65), 1, 32) == 0, "half of the last tiles are none"


@pytest.mark.parametrize(
    "shape",
    [
        Shape(32, 32, (20, 20), (3, 3), stride=(2, 2)), Shape(32, 64, (20, 20), (3, 3), groups=2),
        Shape(32, 32, (20, 20), (3, 2)), SHAPES["live-image"], Shape(32, 32, (1, 64), (1, 3), stride=(1, 2)),
        Shape(32, 64, (1, 64), (1, 3), groups=2), Shape(32, 32, (1, 64), (1, 5)),
        Shape(32, 32, (6, 64), (1, 3), padding=(1, 1)), SHAPES["live"],
    ],
)  # fmt: skip
def test_other_convolutions_are_sums_of_products(shape: Shape) -> None:
    stage = make_stage(shape, "float32")
    assert CONV.lower(stage)["winograd"] == 0
    with pytest.raises(rt.ShapeError, match="winograd"):
        CONV.lower(form(stage, 4))


def test_forms_that_there_are_not_are_refused() -> None:
    with pytest.raises(rt.ShapeError, match="winograd = 3"):
        CONV.lower(form(make_stage(WINOGRAD["odd"], "float32"), 3))
    with pytest.raises(rt.ShapeError, match="winograd = 2"):
        CONV.lower(form(make_stage(WINOGRAD["odd"], "static"), 2))


# -- what comes out ----------------------------------------------------------------------------------------------------


@FORMS
def test_the_matrices_make_a_convolution(m: int) -> None:
    """In float64, where nothing but the algebra is left."""
    b, g, a = (torch.tensor(t[m], dtype=torch.float64) for t in (winograd.INPUT, winograd.WEIGHT, winograd.OUTPUT))
    d, w = torch.randn(m + 2, m + 2, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    want = nn.functional.conv2d(d[None, None], w[None, None])[0, 0]
    torch.testing.assert_close(a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T, want, rtol=0, atol=1e-12)


@FORMS
def test_the_error_is_that_of_the_documentation(m: int) -> None:
    stage = form(make_stage(Shape(64, 64, (30, 31), (3, 3), padding=(1, 1)), "float32"), m)
    x = make_inputs(stage, 1, 0)[0].relu()
    (want,) = CONV.reference(stage, x)
    rms = want.double().square().mean().sqrt()
    for got in run(stage, x):
        error = (got.double() - want.double()).square().mean().sqrt() / rms
        assert 0 < error < {2: 1e-6, 4: 3e-6}[m]


@FORMS
def test_samples_do_not_see_each_other(m: int) -> None:
    stage = form(make_stage(WINOGRAD["odd"], "float32"), m)
    (x,) = make_inputs(stage, 5, 1)
    together, apart = run(stage, x), [run(stage, x[i : i + 1]) for i in range(5)]
    for index, got in enumerate(together):
        assert torch.equal(got, torch.cat([one[index] for one in apart]))


def check_not_finite(stage: Stage, x: Tensor, positions: list[int]) -> None:
    """positions: of each sample, how many have an output that is not finite."""
    (want,) = CONV.reference(stage, x)
    assert (~want.isfinite()).any(2).sum(1).tolist() == positions
    tolerance = CONV.tolerance(stage, x)
    for got in run(stage, x):
        assert torch.equal(got.isnan(), want.isnan())
        assert tolerance.within(got, want).all()


@FORMS
def test_what_is_not_finite_reaches_its_own_outputs_alone(m: int) -> None:
    stage = form(make_stage(Shape(17, 33, (9, 11), (3, 3), padding=(1, 1)), "float32"), m)
    (x,) = make_inputs(stage, 3, 2)
    x[0, 40, 3], x[1, 0, 16], x[1, 98, 0] = float("nan"), float("inf"), float("-inf")
    check_not_finite(stage, x, [9, 8, 0])


@FORMS
def test_what_is_not_finite_reaches_its_own_outputs_of_taps_that_are_apart(m: int) -> None:
    stage = form(make_stage(Shape(17, 33, (9, 11), (3, 3), padding=(2, 3), dilation=(2, 3)), "float32"), m)
    (x,) = make_inputs(stage, 3, 2)
    x[0, 4 * 11 + 5, 3], x[1, 0, 16], x[2, 98, 0] = float("nan"), float("inf"), float("-inf")
    check_not_finite(stage, x, [9, 4, 4])


@FORMS
@pytest.mark.parametrize("apart", [1, 3])
def test_what_is_not_finite_reaches_its_own_outputs_of_a_signal(m: int, apart: int) -> None:
    stage = form(make_stage(Shape(17, 33, (1, 40), (1, 3), padding=(0, apart), dilation=(1, apart)), "float32"), m)
    (x,) = make_inputs(stage, 3, 2)
    x[0, 20, 3], x[1, 0, 16], x[1, 39, 0] = float("nan"), float("inf"), float("-inf")
    check_not_finite(stage, x, [3, 4, 0])


@FORMS
def test_the_transform_of_large_numbers_does_not_overflow_to_the_result(m: int) -> None:
    stage = form(make_stage(Shape(16, 16, (8, 8), (3, 3), padding=(1, 1)), "float32"), m)
    sign = torch.tensor([1.0, -1.0]).repeat(32)[None, :, None]
    x = (torch.full((1, 64, 16), 2e38) * sign).contiguous()
    stage.tensors["weight"].mul_(1e-3)
    (want,) = CONV.reference(stage, x)
    assert want.isfinite().all()
    largest = want.abs().max().double()
    for got in run(stage, x):
        assert ((got.double() - want.double()).abs() < 1e-4 * largest).all()


def test_weights_that_are_not_finite_give_what_sums_give() -> None:
    stage = make_stage(Shape(16, 20, (8, 8), (3, 3)), "float32")
    stage.tensors["weight"][3, 2, 1, 1], stage.tensors["weight"][7, 0, 0, 2] = float("nan"), float("inf")
    (x,) = make_inputs(stage, 1, 4)
    (want,) = CONV.reference(stage, x)
    for m in (2, 4):
        for got in run(form(stage, m), x):
            assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())


# -- int8 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [16, 250])
@pytest.mark.parametrize("zero_point", [-128, 127, 5])
def test_the_largest_numbers_are_exact(channels: int, zero_point: int) -> None:
    """int8 inputs and weights at their ends, with the signs that make the transforms and the sums largest."""
    stage = make_stage(Shape(channels, 24, (9, 8), (3, 3), padding=(1, 1)), "static", seed=channels)
    value = replace(stage.inputs[0], quant=QParams(0.031, zero_point))
    stage = replace(stage, inputs=(value,))
    signs = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, 1, -1]])
    weight = stage.tensors["weight"]
    weight.copy_(torch.where(torch.rand(weight.shape) < 0.5, 127, -127))
    weight[0], weight[1], weight[2] = 127, (127 * signs).to(torch.int8), -127
    x = torch.where(torch.rand(3, 72, channels) < 0.5, 127, -128).to(torch.int8)
    x[0], x[1] = 127, -128
    (want,) = CONV.reference(stage, x)
    kernels = [i for i in impls("cpu", "conv") if not native.reject("conv", i.name, {"weight_dtype": "int8"})]
    problem = Problem.of(stage, 3)
    for impl in kernels:
        assert torch.equal(impl.prepare(stage, problem)(x)[0], want)


# -- compile -----------------------------------------------------------------------------------------------------------


def test_exact_leaves_it_out() -> None:
    model, x = net()
    with torch.no_grad():
        want = model.double()(x.double())
        model.float()
    scale, errors = want.square().mean().sqrt(), {}
    for exact in (False, True):
        fast = rt.compile(model, (x,), strict=True, exact=exact)
        got = fast(x).double()
        errors[exact] = float((got - want).square().mean().sqrt() / scale)
        assert torch.equal(fast(x[:1]).double(), got[:1])
    assert errors[True] < errors[False] < 3e-6


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_residual_block(batch: int) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(24, 24, 3, padding=1) for _ in range(2))
            self.norm = nn.BatchNorm2d(24)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.second(self.norm(self.first(x)).relu())).relu()

    torch.manual_seed(batch)
    model, x = Block().eval(), torch.randn(batch, 24, 15, 17)
    got = rt.compile(model, (x,), strict=True)(x)
    with torch.no_grad():
        want = model.double()(x.double())
    assert ((got.double() - want).abs() < 1e-4).all()


def _line(seed: int) -> Shape:
    """A convolution along one axis of an image or a signal."""
    rng = random.Random(seed)
    apart, long = rng.choice((1, 1, 2, 3, 8)), rng.randint(1, 60)
    causal = rng.random() < 0.3
    before = 0 if causal else rng.choice((0, 1, apart, 2 * apart))
    long = max(long, 2 * apart + 1 - (2 * apart if causal else 2 * before))
    across = rng.random() < 0.6
    lines = 1 if rng.random() < 0.5 and across else rng.randint(1, 9)

    def pair(along: int, other: int) -> tuple[int, int]:
        return (other, along) if across else (along, other)

    return Shape(
        rng.randint(1, 70), rng.randint(1, 140), pair(long, lines), pair(3, 1), padding=pair(before, 0),
        dilation=pair(apart, 1), causal=causal and across,
    )  # fmt: skip


def _image(seed: int) -> Shape:
    """Of 3 x 3 taps, as far apart in each dimension as may be."""
    rng = random.Random(seed)
    apart = rng.choice(((1, 1), (2, 2), (rng.randint(1, 6), rng.randint(1, 6))))
    before = tuple(rng.choice((0, 1, step, 2 * step)) for step in apart)
    size = tuple(max(rng.randint(1, 20), 2 * a + 1 - 2 * b) for a, b in zip(apart, before))
    return Shape(rng.randint(1, 40), rng.randint(1, 100), size, (3, 3), padding=before, dilation=apart)


@pytest.mark.parametrize("shape", [_line, _image])
@pytest.mark.parametrize("seed", range(40))
def test_random_shapes(seed: int, shape: Callable[[int], Shape]) -> None:
    for number, (act, residual) in enumerate((("none", False), ("relu", True), ("gelu", False))):
        for m in (2, 4):
            stage = form(make_stage(shape(seed), "float32", act, 0.0, "float32", residual, seed=seed), m)
            inputs = make_inputs(stage, 1 + number, seed)
            (want,) = CONV.reference(stage, *inputs)
            tolerance = CONV.tolerance(stage, *inputs)
            for got in run(stage, *inputs):
                assert tolerance.within(got, want).all()
