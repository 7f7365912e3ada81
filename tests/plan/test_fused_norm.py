"""A residual in front of a norm: one stage gives the sum, the norm and its int8; equal to the model in every arrangement."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt

C = 45


class Block(nn.Module):
    """after: norm(x + f(x)); before: x + f(norm(x)); twice: the sum is read by the next residual and by a second norm."""

    def __init__(self, form: str, kind: str) -> None:
        super().__init__()
        self.form = form
        self.f, self.g = nn.Linear(C, C), nn.Linear(C, C)
        make = nn.LayerNorm if kind == "layer" else nn.RMSNorm
        self.first, self.second = make(C), make(C)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.form == "after":
            x = self.first(x + F.gelu(self.f(x)))
            return self.second(self.g(x) + x)
        if self.form == "before":
            x = x + self.f(self.first(x))
            return x + self.g(self.second(x))
        if self.form == "sum returned":
            x = x + self.f(self.first(x))
            return self.second(x), x
        x = self.f(x) + x
        a, b = self.first(x), self.second(x)
        return self.g(a) + b


def kinds(fast: rt.CompiledModel) -> Counter[str]:
    return Counter(stage.op for stage in fast._program.stages)


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("form", ["after", "before", "sum returned", "two norms"])
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("shape", [(1, C), (3, C), (2, 7, C)])
def test_float32(form: str, kind: str, shape: tuple[int, ...]) -> None:
    model = Block(form, kind).eval()
    x = torch.randn(*shape) + 1
    fast = rt.compile(model, (x,))
    with torch.no_grad():
        for got, want in zip(as_tuple(fast(x)), as_tuple(model(x))):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert len(fast._program.steps) == 1
    sums = {"after": 0, "before": 1, "sum returned": 0, "two norms": 1}[form]
    assert kinds(fast)["pointwise"] == sums, fast.explain(measure=False)


@pytest.mark.parametrize("form", ["after", "before", "sum returned", "two norms"])
@pytest.mark.parametrize("activation", ["static", "dynamic"])
def test_int8(form: str, activation: str) -> None:
    model = Block(form, "layer").eval()
    x = torch.randn(64, C) + 1
    fast = rt.compile(model, (x,), rt.W8A8(activation), calibration=x if activation == "static" else None)
    with torch.no_grad():
        for got, want in zip(as_tuple(fast(x)), as_tuple(model(x))):
            assert float((got - want).norm() / want.norm()) < 0.02
    # The input of the model, and what comes from a linear layer; every other int8 form is written by a norm.
    assert kinds(fast)["quantize"] <= 1, fast.explain(measure=False)


def test_a_row_of_nan_corrupts_itself_alone() -> None:
    model = Block("after", "layer").eval()
    x = torch.randn(5, C)
    fast = rt.compile(model, (x,), rt.W8A8("static"), calibration=x)
    clean = fast(x)
    x[3, 7] = float("nan")
    with_nan = fast(x)
    assert with_nan[3].isnan().all()
    assert torch.equal(with_nan[[0, 1, 2, 4]], clean[[0, 1, 2, 4]])


def test_the_encoder_layer_has_no_pass_of_its_own_for_a_sum_or_for_int8() -> None:
    layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(1, 9, 48)
    fast = rt.compile(model, (x,), rt.W8A8("static"), calibration=torch.randn(32, 9, 48))
    assert kinds(fast) == {"quantize": 1, "linear": 8, "attention": 2, "norm": 4}
    with torch.no_grad():
        want = model(x)
    assert float((fast(x) - want).norm() / want.norm()) < 0.02


def test_planned_for_samples_not_for_their_rows() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    assert "planned for 3 rows" in rt.compile(layer, (torch.randn(3, 5, 16),)).explain(measure=False)
    assert "planned for 15 rows" in rt.compile(nn.Linear(16, 4).eval(), (torch.randn(3, 5, 16),)).explain(measure=False)
