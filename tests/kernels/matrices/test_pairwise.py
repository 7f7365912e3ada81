"""Pairwise beyond conformance: distances as models write them, numbers that are none, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.kernels.pairwise import contract
from tests.support.networks.call import CallOfTwo
from tests.support.one_stage import INF, NAN, compiled_both, operators_of, runs


class Codes(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call, self.codes = call, nn.Parameter(torch.randn(37, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.codes)


OF_CODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squares": lambda x, c: ((x.unsqueeze(-2) - c) ** 2).sum(-1),
    "squares, mean": lambda x, c: (c - x.unsqueeze(-2)).square().mean(-1),
    "cdist": lambda x, c: torch.cdist(x, c),
    "Manhattan": lambda x, c: torch.cdist(x, c, p=1.0),
    "Manhattan, mean": lambda x, c: (x.unsqueeze(-2) - c).abs().mean(-1),
    "Chebyshev": lambda x, c: torch.cdist(x, c, p=INF),
    "norm": lambda x, c: (x.unsqueeze(-2) - c).norm(dim=-1),
    "nearest": lambda x, c: torch.cdist(x, c).amin(-1),
    "kernel": lambda x, c: torch.exp(-0.3 * ((x.unsqueeze(-2) - c) ** 2).sum(-1)) @ c,
    "softly one of them": lambda x, c: torch.softmax(-torch.cdist(x, c), -1) @ c,
}
OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cdist": torch.cdist,
    "squares": lambda a, b: ((a[:, :, None] - b[:, None]) ** 2).sum(-1),
    "in columns": lambda a, b: ((a.mT[:, :, :, None] - b.mT[:, :, None]) ** 2).sum(1),
    "other order": lambda a, b: (b[:, None] - a[:, :, None]).abs().sum(-1).mT,
    "with itself": lambda a, b: torch.cdist(a, a) + b.sum((1, 2), keepdim=True),
    "parts": lambda a, b: (a[:, 1::2, None, 1:] - b[:, None, ::3, :-1]).abs().amax(-1),
    "of matrices": lambda a, b: (a.reshape(-1, 3, 1, 3, 6) - b.reshape(-1, 1, 4, 3, 6)).square().mean((3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_CODES)
@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_of_codes(name: str, shape: tuple[int, ...]) -> None:
    model = Codes(OF_CODES[name]).eval()
    exact = copy.deepcopy(model).double()
    native, plain, found = compiled_both(model, (torch.randn(2, *shape),))
    assert found[0] == "pairwise" and found.count("pairwise") == 1
    for rows in (1, 2, 4, 5, 11):
        x = torch.randn(rows, *shape)
        for fast in (native, plain):
            torch.testing.assert_close(fast(x).double(), exact(x.double()).detach(), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name", OF_TWO)
def test_of_two_values(name: str) -> None:
    model = CallOfTwo(OF_TWO[name]).eval()
    native, plain, found = compiled_both(model, (torch.randn(2, 9, 6), torch.randn(2, 12, 6)))
    assert found.count("pairwise") == 1
    for rows in (1, 3):
        a, b = torch.randn(rows, 9, 6), torch.randn(rows, 12, 6)
        for fast in (native, plain):
            torch.testing.assert_close(fast(a, b).double(), model(a.double(), b.double()), rtol=3e-6, atol=3e-6)


def test_codes_in_front() -> None:
    """A parameter that is the left side."""
    model = Codes(lambda x, c: ((c[:, None] - x[:, None]) ** 2).sum(-1)).eval()
    exact = copy.deepcopy(model).double()
    native, plain, found = compiled_both(model, (torch.randn(2, 5, 6),))
    assert found == ["pairwise"]
    for rows in (1, 3):
        x = torch.randn(rows, 5, 6)
        for fast in (native, plain):
            torch.testing.assert_close(fast(x).double(), exact(x.double()).detach(), rtol=3e-6, atol=3e-6)


class WeightedCodes(Codes):
    """weights: a buffer of one number, of one a column, or of one a column of each code; of either sign, and 0."""

    def __init__(self, call: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.weighted, self.codes = call, nn.Parameter(torch.randn(37, 6))
        weights = torch.randn(shape).abs() + 0.3
        self.register_buffer("weights", torch.where(torch.rand(shape) < 0.5, weights, -weights))

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(x.unsqueeze(-2), self.codes, self.weights)


WEIGHTED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "of squares": lambda x, c, w: (w * (x - c) ** 2).sum(-1),
    "of magnitudes": lambda x, c, w: ((x - c).abs() * w).mean(-1),
    "of differences": lambda x, c, w: ((x - c) * w).square().mean(-1),
    "that divide": lambda x, c, w: (((c - x) / w) ** 2).sum(-1),
    "that divide magnitudes": lambda x, c, w: ((x - c).abs() / w).sum(-1),
    "that divide squares": lambda x, c, w: ((x - c).square() / w).sum(-1),
    "and their signs": lambda x, c, w: (-((c - x) / w).abs()).sum(-1),
    "twice": lambda x, c, w: (w * (w * (x - c)) ** 2).sum(-1),
    "with numbers": lambda x, c, w: (-0.5 * ((x - c) / (w * 2.0)) ** 2).sum(-1),
    "in a kernel": lambda x, c, w: torch.exp(-0.5 * (((x - c) / w) ** 2).sum(-1)),
    "and more": lambda x, c, w: (-((x - c) ** 2) / (2 * w**2) - w.abs().log()).sum(-1),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("shape", [(), (6,), (37, 6), (37, 1)])
def test_weights(name: str, shape: tuple[int, ...]) -> None:
    model = WeightedCodes(WEIGHTED[name], shape).eval()
    exact = copy.deepcopy(model).double()
    native, plain, found = compiled_both(model, (torch.randn(2, 6),))
    assert found.count("pairwise") == (name != "and more"), found
    for rows in (1, 5, 9):
        x = torch.randn(rows, 6)
        for fast in (native, plain):
            torch.testing.assert_close(fast(x).double(), exact(x.double()).detach(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30, INF, NAN])
@pytest.mark.parametrize("name", ["of squares", "of magnitudes", "that divide", "that divide magnitudes"])
def test_weights_that_float32_does_not_hold(name: str, scale: float) -> None:
    """Of squares, of reciprocals, and those that are none: the numbers are those of the model."""
    model = WeightedCodes(WEIGHTED[name], (37, 6)).eval()
    model.get_buffer("weights")[3, 2] *= scale
    native, plain, _ = compiled_both(model, (torch.randn(2, 6),))
    x = torch.randn(4, 6)
    x[1, 2] = model.codes[3, 2]
    want = model(x).detach()
    for fast in (native, plain):
        torch.testing.assert_close(fast(x), want, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_weight_of_what_is_far_off() -> None:
    """Squares that float32 does not hold without their weights."""
    model = WeightedCodes(WEIGHTED["that divide"], ()).eval()
    model.get_buffer("weights").fill_(1e12)
    native, plain, found = compiled_both(model, (torch.randn(2, 6),))
    assert "pairwise" in found
    x = torch.randn(4, 6) * 1e24
    for fast in (native, plain):
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(("kind", "of"), contract.KINDS)
@pytest.mark.parametrize("number", [NAN, INF, -INF, 3e38])
def test_a_number_that_is_none_reaches_its_own_pairs(kind: str, of: str, number: float) -> None:
    for k in (1, 5, 33):
        stage = contract.make_stage(kind, of, ((2,), (5,), (21,), (k,)))
        a, w = (torch.randn(2, *v.shape) for v in stage.inputs)
        a.view(2, 2, 5, k)[1, 0, 3, k // 2] = number
        w.view(2, 2, 21, k)[0, 1, 20, 0] = number
        off = a.view(2, 2, 5, 1, k) - w.view(2, 2, 1, 21, k)
        term = off.square() if of == "squares" else off.abs()
        want = {"sum": torch.sum, "mean": torch.mean, "amax": torch.amax}[kind](term, -1)
        for name, run in runs(stage, 2).items():
            got = run(a, w)[0].reshape(want.shape)
            torch.testing.assert_close(
                got, want, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
            )
            assert bool(got.isfinite().logical_or(~want.isfinite()).all()), name


def test_many_terms_keep_their_digits() -> None:
    """Squares of one size: sums of runs, not one sum over all."""
    stage = contract.make_stage("sum", "squares", ((), (5,), (20,), (20_000,)))
    a, w = torch.full((1, 5, 20_000), 1.1), torch.full((1, 20, 20_000), 0.1)
    want = (a[0, 0].double() - w[0, 0].double()).square().sum()
    for name, run in runs(stage).items():
        off = float((run(a, w)[0].double() / want - 1).abs().max())
        assert off < 600 * 2.0**-24, f"{name} is {off} off"


def test_what_has_no_kernel_is_refused() -> None:
    stage = contract.make_stage("sum", "squares", ((2,), (3,), (4,), (5,)))
    for key, value, error in [
        ("kind", "amax", FormatError), ("of", "cubes", FormatError), ("kind", "prod", FormatError),
        ("sizes", ((2,), (3,), (4,), (0,)), ShapeError), ("sizes", ((2,), (3,), (5,), (5,)), ShapeError),
        ("places", ((0, 15, 5, 2), (0, 20, 1, 5)), ShapeError), ("places", ((0, 15, 5), (0, 20, 1, 5)), ShapeError),
    ]:  # fmt: skip
        with pytest.raises(error, match="pairwise"):
            contract.lower(replace(stage, attrs={**stage.attrs, key: value}))
    with_weights = contract.weighted(stage)
    for attrs, error in [
        ({"kind": "amax", "of": "magnitudes"}, FormatError), ({"places": stage.attrs["places"]}, ShapeError),
        ({"places": (*stage.attrs["places"], (1, 20, 4, 1))}, ShapeError),
    ]:  # fmt: skip
        with pytest.raises(error, match="pairwise"):
            contract.lower(replace(with_weights, attrs={**with_weights.attrs, **attrs}))


@pytest.mark.parametrize("samples", range(1, 10))
def test_rows_of_several_samples(samples: int) -> None:
    """A sample with one row beside codes: each with its own numbers, whatever the others are."""
    places = ((0, 1), (0, 19, 1))
    stage = contract.with_parameter("w", contract.make_stage("sum", "squares", ((), (), (19,), (7,)), places))
    x = torch.randn(samples, 7)
    x[samples // 2] = NAN
    for name, run in runs(stage, samples).items():
        got = run(x)[0]
        assert bool(got[samples // 2].isnan().all()) and int(got.isnan().sum()) == 19, name
        for s in range(samples):
            torch.testing.assert_close(
                got[s : s + 1], run(x[s : s + 1].contiguous())[0], equal_nan=True, rtol=1e-6, atol=0
            )


def test_differences_that_somebody_else_reads_stay() -> None:
    def both(a: Tensor, b: Tensor) -> Tensor:
        off = (a[:, :, None] - b[:, None]) ** 2
        return off.sum(-1) + off.amax(-1)

    model = CallOfTwo(both).eval()
    native, plain, found = compiled_both(model, (torch.randn(2, 9, 6), torch.randn(2, 12, 6)))
    assert "pairwise" not in found and found == operators_of(plain)
    a, b = torch.randn(3, 9, 6), torch.randn(3, 12, 6)
    torch.testing.assert_close(native(a, b).double(), both(a.double(), b.double()), rtol=3e-6, atol=3e-6)
