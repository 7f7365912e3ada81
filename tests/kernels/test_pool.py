"""Pool: against torch's own pooling in float64 and on whole numbers; windows, padding, positions, int8, samples apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from tests.support.one_stage import (
    INF,
    NAN,
    check_no_samples,
    check_same,
    check_samples_apart,
    compiled_both,
    runs,
)

EPS = torch.finfo(torch.float32).eps
Pair = tuple[int, int]
WINDOWS: list[dict[str, Any]] = [
    {"size": (1, 9), "kernel": (1, 3)},
    {"size": (1, 11), "kernel": (1, 4), "stride": (1, 3), "padding": (0, 2)},
    {"size": (7, 5), "kernel": (7, 5)},
    {"size": (7, 9), "kernel": (3, 2), "stride": (2, 2), "padding": (1, 1)},
    {"size": (8, 6), "kernel": (2, 3), "stride": (3, 1), "padding": (0, 1)},
    {"size": (3, 3), "kernel": (1, 1), "stride": (2, 2)},
]


def options_of(window: dict[str, Any]) -> dict[str, Any]:
    return {"stride": (1, 1), "padding": (0, 0)} | {k: v for k, v in window.items() if k not in ("size", "kernel")}


def stage_of(
    kind: str, c: int, window: dict[str, Any], out: Pair, include: int = 1,
    quants: tuple[QParams | None, QParams | None] = (None, None), **attrs: Any,
) -> Stage:  # fmt: skip
    size = window["size"]
    steps = len(attrs["out_steps"]) if "out_steps" in attrs else out[0] * out[1]
    x, y = (
        Value(name, c, "int8" if q else "float32", q, n) for name, q, n in zip("xy", quants, (size[0] * size[1], steps))
    )
    attrs |= {"kind": kind, "in_size": size, "kernel": window["kernel"], "out_size": out, "count_include_pad": include}
    return Stage("pool", "p", (x,), (y,), {}, {**options_of(window), **attrs})


def pixels(image: Tensor) -> Tensor:
    """[M, C, H, W] -> [M, H * W, C], or [M, C] of one pixel, as a value holds it."""
    rows = image.flatten(2).transpose(1, 2).contiguous()
    return rows[:, 0] if rows.shape[1] == 1 else rows


def shape_of(image: Tensor) -> Pair:
    return image.shape[2], image.shape[3]


@pytest.mark.parametrize("c", [1, 5, 67])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w['size']}-{w['kernel']}")
def test_max(window: dict[str, Any], c: int) -> None:
    image = torch.randn(3, c, *window["size"])
    want = F.max_pool2d(image, window["kernel"], **options_of(window))
    check_same(stage_of("max", c, window, shape_of(want)), (pixels(image),), (pixels(want),))


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("c", [1, 5, 67])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w['size']}-{w['kernel']}")
def test_average(window: dict[str, Any], c: int, include: int) -> None:
    """A sum of so many terms in any order, the rounding of 1 / count, and one product."""
    image = torch.randn(3, c, *window["size"])
    options = {**options_of(window), "count_include_pad": bool(include)}
    want = F.avg_pool2d(image.double(), window["kernel"], **options)
    size = pixels(F.avg_pool2d(image.double().abs(), window["kernel"], **options))
    terms = window["kernel"][0] * window["kernel"][1] + 2
    for name, run in runs(stage_of("avg", c, window, shape_of(want), include), 3).items():
        got = run(pixels(image))[0]
        assert got.shape == size.shape and got.dtype == torch.float32, name
        assert ((got.double() - pixels(want)).abs() <= EPS * terms * size).all(), name


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_windows_over_the_lower_edge(kind: str) -> None:
    """What ceil_mode adds is in out_size alone. The average then counts what is inside."""
    window = {"size": (6, 8), "kernel": (3, 3), "stride": (2, 3), "padding": (0, 1)}
    image = torch.randn(2, 4, 6, 8)
    if kind == "max":
        want = F.max_pool2d(image, 3, (2, 3), (0, 1), ceil_mode=True)
        check_same(stage_of("max", 4, window, shape_of(want)), (pixels(image),), (pixels(want),))
        assert shape_of(want) != shape_of(F.max_pool2d(image, 3, (2, 3), (0, 1)))
    else:
        want = F.avg_pool2d(image.double(), 3, (2, 3), (0, 1), True, False)
        for name, run in runs(stage_of("avg", 4, window, shape_of(want), 0), 2).items():
            torch.testing.assert_close(run(pixels(image))[0].double(), pixels(want), rtol=1e-5, atol=2e-6, msg=name)


def test_dilation() -> None:
    window = {"size": (9, 8), "kernel": (3, 2), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 3)}
    image = torch.randn(2, 17, 9, 8)
    want = F.max_pool2d(image, (3, 2), (1, 2), (1, 0), (2, 3))
    check_same(stage_of("max", 17, window, shape_of(want)), (pixels(image),), (pixels(want),))


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_some_of_the_outputs(kind: str) -> None:
    """out_steps computes these alone, with the bits that they have among all."""
    window = {"size": (5, 6), "kernel": (2, 2)}
    x = torch.randn(3, 30, 9)
    some = (0, 3, 7, 19)
    whole, part = runs(stage_of(kind, 9, window, (4, 5)), 3), runs(stage_of(kind, 9, window, (4, 5), out_steps=some), 3)
    for name, run in whole.items():
        assert torch.equal(part[name](x)[0], run(x)[0][:, list(some)]), name


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w['size']}-{w['kernel']}")
def test_int8_with_one_scale_is_pooling_of_whole_numbers(window: dict[str, Any]) -> None:
    quant = QParams(0.05, -7)
    image = torch.randint(-128, 128, (2, 19, *window["size"]), dtype=torch.int8)
    image[0, 0], image[0, 1] = -128, 127
    want = F.max_pool2d(image.double(), window["kernel"], **options_of(window))
    stage = stage_of("max", 19, window, shape_of(want), 1, (quant, quant))
    check_same(stage, (pixels(image),), (pixels(want).to(torch.int8),))


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w['size']}-{w['kernel']}")
def test_average_of_int8(window: dict[str, Any], include: int) -> None:
    """Padding is a real zero, which is the zero point. float32: three roundings of an exact sum. int8: the nearest step."""
    source, target = QParams(0.05, -7), QParams(0.021, 3)
    image = torch.randint(-128, 128, (2, 19, *window["size"]), dtype=torch.int8)
    whole = image.double() + 7
    want = F.avg_pool2d(whole, window["kernel"], **options_of(window), count_include_pad=bool(include)) * 0.05
    for out in (None, target):
        stage = stage_of("avg", 19, window, shape_of(want), include, (source, out))
        results = [run(pixels(image))[0] for run in runs(stage, 2).values()]
        assert all(torch.equal(results[0], other) for other in results[1:])
        if out is None:
            assert ((results[0].double() - pixels(want)).abs() <= 2 * EPS * pixels(want).abs()).all()
        else:
            steps = (pixels(want) / out.scale + out.zero_point).clamp(-128, 127)
            assert ((results[0].double() - steps).abs() <= 0.5 + 256 * 2 * EPS).all()


def test_nan_wins_and_stays_in_its_channel() -> None:
    window = {"size": (1, 6), "kernel": (1, 3), "stride": (1, 3)}
    x = torch.randn(2, 6, 5)
    x[1, 1, 2], x[0, 5, 4], x[0, 0, 0] = NAN, INF, -INF
    for kind in ("max", "avg"):
        for name, run in runs(stage_of(kind, 5, window, (1, 2)), 2).items():
            y = run(x)[0]
            assert y[1, 0, 2].isnan() and int(y.isnan().sum()) == 1, name
            assert y[0, 1, 4] == INF, name
            assert torch.isfinite(y[0, 0, 0]) == (kind == "max"), name
    lowest = torch.full((1, 6, 1), -INF)
    check_same(stage_of("max", 1, window, (1, 2)), (lowest,), (torch.full((1, 2, 1), -INF),))


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("quant", [None, QParams(0.1, 2)], ids=["float32", "int8"])
def test_samples_are_apart(kind: str, quant: QParams | None) -> None:
    stage = stage_of(kind, 5, {"size": (4, 3), "kernel": (2, 2)}, (3, 2), 1, (quant, quant))
    x = torch.randn(4, 12, 5) if quant is None else torch.randint(-128, 128, (4, 12, 5), dtype=torch.int8)
    check_samples_apart(stage, (x,))
    check_no_samples(stage)


@pytest.mark.parametrize(
    ("layer", "shape", "operator"),
    [
        (nn.MaxPool2d((3, 2), 2, 1), (3, 7, 9), "pool"),
        (nn.MaxPool1d(3, 2, 1, dilation=2), (3, 11), "pool"),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (3, 7, 9), "pool"),
        (nn.AvgPool1d(4, 3, 2), (3, 11), "pool"),
        (nn.AdaptiveAvgPool2d(1), (3, 7, 9), "reduce"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_compiled(layer: nn.Module, shape: tuple[int, ...], operator: str) -> None:
    native, plain, found = compiled_both(nn.Sequential(layer), (torch.randn(2, *shape),))
    assert operator in found
    for rows in (0, 1, 2, 9):
        x = torch.randn(rows, *shape)
        want = layer(x) if rows else layer(torch.randn(1, *shape))[:0]
        for fast in (native, plain):
            torch.testing.assert_close(fast(x), want, rtol=1e-5, atol=2e-6)


WINDOW = {"size": (3, 3), "kernel": (2, 2)}


@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        (stage_of("min", 1, WINDOW, (2, 2)), rt.UnsupportedProblem, 'got kind \'min\'; expected "avg" or "max"'),
        (stage_of("max", 1, {**WINDOW, "padding": (2, 2)}, (2, 2)), rt.ShapeError, "a window wholly in the padding"),
        (stage_of("max", 1, WINDOW, (4, 4)), rt.ShapeError, "a window wholly in the padding"),
        (stage_of("max", 1, {**WINDOW, "kernel": (2, 0)}, (2, 2)), rt.ShapeError, "kernel .*at least 1"),
        (stage_of("max", 1, {**WINDOW, "stride": (0, 1)}, (2, 2)), rt.ShapeError, "stride .*at least 1"),
        (stage_of("max", 1, {**WINDOW, "padding": (0, -1)}, (2, 2)), rt.ShapeError, "padding .*at least 0"),
        (stage_of("max", 1, {**WINDOW, "kernel": 2}, (2, 2)), rt.ShapeError, "kernel 2; expected two whole numbers"),
        (stage_of("max", 1, WINDOW, (2, 2), in_steps=tuple(range(8))), rt.ShapeError, "value x of 9 steps; expected 8"),
        (stage_of("max", 1, WINDOW, (2, 2), out_steps=(3, 1)), rt.ShapeError, "out_steps .*sorted positions"),
        (stage_of("max", 1, WINDOW, (2, 2), out_steps=(0, 4)), rt.ShapeError, r"out_steps .*0\.\.3"),
    ],
)
def test_what_is_refused(stage: Stage, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"pool: .*{words}"):
        operator("pool").lower(stage)


def test_channels_and_scales_that_do_not_fit() -> None:
    good = stage_of("max", 2, WINDOW, (2, 2))
    for x in (Value("x", 3, steps=9), Value("x", 2, "int8", None, 9)):
        with pytest.raises(rt.ShapeError, match="as many channels, a static scale"):
            operator("pool").lower(Stage("pool", "p", (x,), good.outputs, {}, good.attrs))
    lost = Stage("pool", "p", (Value("x", 2, steps=8),), good.outputs, {}, {**good.attrs, "in_steps": tuple(range(8))})
    with pytest.raises(rt.ShapeError, match="in_steps without 8"):
        operator("pool").lower(lost)
