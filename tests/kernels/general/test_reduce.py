"""Reduce beyond conformance: reductions, norms and softmax of torch over any dimensions, through compiled models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.reduce import contract
from tests.support.networks.call import Call


def _line(x: Tensor) -> Tensor:
    """A number for each channel."""
    return torch.arange(1.0, x.shape[1] + 1, dtype=x.dtype)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(2),
    "sum of two": lambda x: x.sum((1, 3)),
    "mean": lambda x: x.mean(1, keepdim=True),
    "mean of all": lambda x: x.mean((1, 2, 3)),
    "extremes": lambda x: x.amax(3) - x.amin(3),
    "maximum": lambda x: x.max(2).values,
    "product": lambda x: (x * 0.5 + 1).prod(3),
    "variance": lambda x: x.var(1) + x.std((2, 3)).sum(1)[:, None, None],
    "biased variance": lambda x: x.var((2, 3), unbiased=False),
    "norm": lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, ord=1, dim=1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 2),
    "softmax": lambda x: F.softmax(x, 1) + F.log_softmax(x, 2),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x),
    "instance norm with weights": lambda x: F.instance_norm(x, weight=_line(x), bias=_line(x) / 2),
    "instance norm of the past": lambda x: F.instance_norm(x, _line(x) / 3, _line(x), _line(x), use_input_stats=False),
    "all": lambda x: (x > -1.5).all(3).float() + (x > 1).any(1).float().sum((1, 2))[:, None, None],
    "cosine": lambda x: F.cosine_similarity(x[:, :2], x[:, 2:], dim=1),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("turned", [False, True])
def test_equals_torch_and_is_native(name: str, turned: bool) -> None:
    """turned: the values lie channels last."""
    function = (lambda x: CALLS[name](x.permute(0, 3, 1, 2))) if turned else CALLS[name]
    model = Call(function).eval()
    shape = (5, 6, 4) if turned else (4, 5, 6)
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for rows in (1, 2, 3):
        x = torch.randn(rows, *shape)
        torch.testing.assert_close(fast(x).double(), model(x.double()).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sum", "mean", "prod", "amax", "amin"])
@pytest.mark.parametrize(
    ("rows", "groups", "each"), [(16, 32, 2), (49, 5, 7), (9, 700, 3), (1500, 3, 5), (64, 1, 40), (8, 2, 256)]
)
def test_short_runs_that_follow_one_another(kind: str, rows: int, groups: int, each: int) -> None:
    """Of the channels of a group, over all positions: with a NaN in one of them."""
    model = Call(
        lambda x: (
            getattr(x.view(-1, rows, groups, each), kind)(dim=(1, 3))
            if kind != "prod"
            else _product(x.view(-1, rows, groups, each))
        )
    ).eval()
    x = 1 + torch.randn(2, rows, groups * each) / (rows * each) ** 0.5
    x[1, rows // 2, groups * each // 2] = float("nan")
    got, want = rt.compile(model, x, strict=True)(x), model(x.double())
    torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=1e-5, equal_nan=True)
    assert int(got.isnan().sum()) == 1


def _product(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2).prod(2)


def test_a_nan_is_the_result_of_its_own_elements_alone() -> None:
    model = Call(lambda x: x.amax(1)).eval()
    x = torch.randn(2, 4, 7)
    x[0, 2, 3] = float("nan")
    got = rt.compile(model, x, strict=True)(x)
    torch.testing.assert_close(got, model(x), equal_nan=True, rtol=0, atol=0)
    assert int(got.isnan().sum()) == 1


def stage(**attrs: object) -> Stage:
    given = {"kind": "sum", "dims": (4, 2), "kept": 1, "place": (0, 1, 4), **attrs}
    return Stage("reduce", "case", (Value("x", 4, steps=2),), (Value("y", 4),), {}, given)


def test_what_is_refused() -> None:
    with pytest.raises(FormatError, match="median"):
        contract.lower(stage(kind="median"))
    for wrong in ({"kept": 2}, {"place": (1, 1, 4)}, {"place": (0, 1)}, {"dims": (4, 3)}):
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
