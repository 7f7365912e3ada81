"""Concat: every number is where its part and column say, bits and all; samples apart; parts that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.stage import QParams, Stage, Value
from tests.support.one_stage import INF, NAN, check_no_samples, check_samples_apart, compiled_both, kernels, runs

WIDTHS = [(1,), (1, 1), (3, 16, 2), (65, 1, 7, 33), tuple(range(1, 20))]


def stage_of(*widths: int, total: int | None = None) -> Stage:
    parts = tuple(Value(f"x{i}", width) for i, width in enumerate(widths))
    return Stage("concat", "c", parts, (Value("y", sum(widths) if total is None else total),))


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int32)


@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("widths", WIDTHS, ids=len)
def test_each_number_is_in_its_place(widths: tuple[int, ...], rows: int) -> None:
    parts = [torch.randn(rows, width) for width in widths]
    want = [[x for part in parts for x in part[row].tolist()] for row in range(rows)]
    for name, run in runs(stage_of(*widths), rows).items():
        assert run(*parts)[0].tolist() == want, name


def test_copies_bits_and_computes_nothing() -> None:
    """A NaN keeps its payload, and zero its sign."""
    payload = torch.tensor([0x7FC01234, -0x3FEDCC], dtype=torch.int32).view(torch.float32)
    special = torch.stack((torch.tensor([NAN, -0.0]), torch.tensor([INF, 1e-45]), payload))
    for name, run in runs(stage_of(2, 2), 3).items():
        got = run(special, special.flip(0).contiguous())[0]
        assert torch.equal(bits(got[:, :2]), bits(special)), name
        assert torch.equal(bits(got[:, 2:]), bits(special.flip(0))), name


def test_samples_are_apart() -> None:
    check_samples_apart(stage_of(5, 9, 1), tuple(torch.randn(4, w) for w in (5, 9, 1)))
    check_no_samples(stage_of(5, 9, 1))


class Beside(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, torch.relu(y), y, x], -1)


@pytest.mark.parametrize("shape", [(), (5,)], ids=["rows", "steps"])
def test_compiled(shape: tuple[int, ...]) -> None:
    example = torch.randn(2, *shape, 7), torch.randn(2, *shape, 4)
    native, plain, found = compiled_both(Beside(), example)
    assert "concat" in found
    for rows in (1, 2, 31):
        x, y = torch.randn(rows, *shape, 7), torch.randn(rows, *shape, 4)
        assert torch.equal(native(x, y), Beside()(x, y))
        assert torch.equal(plain(x, y), Beside()(x, y))
    with pytest.raises(rt.ShapeError, match=r"expected .*\b4"):
        native(x, torch.randn(31, *shape, 5))


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (stage_of(3, 4, total=8), "do not fill the result"),
        (stage_of(3, 4, total=6), "do not fill the result"),
        (Stage("concat", "c", (Value("a", 3, "int8", QParams(0.1, 0)),), (Value("y", 3),)), "takes float32"),
        (Stage("concat", "c", (Value("a", 3),), (Value("y", 3, "int8", QParams(0.1, 0)),)), "do not fill"),
        (stage_of(*[1] * 257), "257 inputs, expected 1 to 256"),
    ],
)
def test_parts_that_do_not_fit(stage: Stage, words: str) -> None:
    with pytest.raises(rt.UnsupportedProblem, match=words):
        kernels(stage)
