"""Models whose code looks at the batch: right for every batch, or refused by name, never the other branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

SIZES = (*range(18), 33, 100)


class Model(nn.Module):
    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.body = nn.Linear(4, 4), nn.Linear(4, 4), body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


BODIES: dict[str, Callable[[Any, Tensor], Any]] = {
    "greater": lambda m, x: m.a(x) if x.shape[0] > 4 else m.b(x),
    "one": lambda m, x: m.a(x) if x.shape[0] == 1 else m.b(x),
    "a size": lambda m, x: m.a(x) if x.shape[0] == 13 else m.b(x),
    "even": lambda m, x: m.a(x) if x.shape[0] % 2 else m.b(x),
    "elements": lambda m, x: m.a(x) if x.numel() > 100 else m.b(x),
    "first ten": lambda m, x: m.a(x)[:10],
    "last seven": lambda m, x: m.a(x)[-7:],
    "split": lambda m, x: m.a(x).split(7)[0],
    "squeeze": lambda m, x: m.a(x).squeeze(),
    "squeeze first": lambda m, x: m.a(x).squeeze(0),
    "features first": lambda m, x: torch.cat([m.a(x).T, x.T], -1),
    "rows of two": lambda m, x: m.a(x).reshape(2, -1),
    "mean of all": lambda m, x: m.a(x).mean(0, keepdim=True) + x,
    "softmax over the batch": lambda m, x: m.a(x).softmax(0),
    "both directions": lambda m, x: torch.cat(torch.cat([m.a(x), m.b(x.flip(1))]).chunk(2, 0), 1),
    "length": lambda m, x: m.a(x) * len(x),
    "plain": lambda m, x: torch.relu(m.a(x)),
}
OPEN = {
    "plain": range(18),
    "greater": range(5, 18),
    "one": range(2, 18),
    "elements": range(18),
    "both directions": range(1, 18),
}
"""What at least is taken, where the example is one of these."""


CASES = [(name, example, "float32") for name in BODIES for example in (1, 5, 14)]
CASES += [(name, 5, "w8a8") for name in ("plain", "greater", "squeeze")]


@pytest.mark.parametrize(("name", "example", "scheme"), CASES)
def test_every_batch_is_the_models_or_refused(name: str, example: int, scheme: str) -> None:
    model = Model(BODIES[name]).eval()
    x = torch.randn(example, 4)
    try:
        model(x)
    except RuntimeError:
        pytest.skip("the model refuses the example itself")
    calibration = None if scheme == "float32" else [torch.randn(example, 4) for _ in range(200)]
    fast = rt.compile(model, (x,), scheme, calibration=calibration)
    tolerance = 1e-4 if scheme == "float32" else 0.3  # values beyond those of calibration are clipped
    taken = []
    for size in SIZES:
        x = torch.randn(size, 4)
        try:
            got = fast(x)
        except rt.ShapeError as error:
            expected = f"a batch of {size}; expected one that the model was compiled for"
            if size == example or expected not in str(error):
                raise
            continue
        want = model(x)
        assert got.shape == want.shape, size
        torch.testing.assert_close(got, want.detach(), rtol=tolerance, atol=tolerance)
        taken.append(size)
    assert example in taken
    if example in OPEN.get(name, ()):
        assert set(OPEN[name]) <= set(taken)
    assert "batch size: " in fast.explain(measure=False)


@pytest.mark.parametrize("seed", range(8))
def test_a_limit_at_any_batch_leaves_all_on_the_examples_side(seed: int) -> None:
    """Whether the limit lies below or above the batch that the model is traced with."""
    g = torch.Generator().manual_seed(seed)
    times, limit, example = (int(torch.randint(1, n, (), generator=g)) for n in (5, 120, 45))
    model = Model(lambda m, x: m.a(x) if x.shape[0] * times >= limit else m.b(x)).eval()
    fast = rt.compile(model, (torch.randn(example, 4),))
    above = example * times >= limit
    for size in range(1, 50):
        x = torch.randn(size, 4)
        if (size * times >= limit) == above and not (size == 1 and above):  # torch takes one sample for itself
            torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-4)
        elif size > 1:
            with pytest.raises(rt.ShapeError, match=f"a batch of {size}"):
                fast(x)


def test_a_quotient_of_sizes_has_no_largest_batch() -> None:
    model = Model(BODIES["both directions"]).eval()
    fast = rt.compile(model, (torch.randn(1, 4),), strict=True)
    x = torch.randn(1501, 4)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-4)


def test_explain_says_what_was_assumed() -> None:
    greater = rt.compile(Model(BODIES["greater"]).eval(), (torch.randn(6, 4),)).explain(measure=False)
    assert "batch size: dynamic, at least 5 (batch > 4" in greater and "test_batch_conditions.py" in greater
    one = rt.compile(Model(BODIES["one"]).eval(), (torch.randn(6, 4),)).explain(measure=False)
    assert "dynamic, at least 2 (with a batch of 1 result 0 differs" in one
    plain = rt.compile(Model(BODIES["plain"]).eval(), (torch.randn(6, 4),)).explain(measure=False)
    assert "batch size: dynamic\n" in plain
    assert "verified against the model at batch sizes 0, 1, 2, 3, 5, 6, 8 in" in plain


def test_without_verification_the_guards_still_hold() -> None:
    model = Model(BODIES["greater"]).eval()
    fast = rt.compile(model, (torch.randn(6, 4),), verify=False)
    assert "compiled with verify=False" in fast.explain(measure=False)
    with pytest.raises(rt.ShapeError, match="at least 5"):
        fast(torch.randn(4, 4))


def test_a_form_that_is_not_the_model_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from rtaccel.convert.patterns import pointwise

    def doubled(call: Any, value: Any, scale: Any, shift: Any) -> Any:
        return real(call, value, scale, 2 * shift)

    real = pointwise._affine
    monkeypatch.setattr(pointwise, "_affine", doubled)
    model = Model(lambda m, x: m.a(x) + 3.0).eval()
    x = torch.randn(2, 4)
    with pytest.warns(UserWarning, match="whose compiled form is not the model"):
        fast = rt.compile(model, (x,))
    torch.testing.assert_close(fast(x), model(x).detach())
    with pytest.raises(rt.UnsupportedProblem, match="strict=True"):
        rt.compile(model, (x,), strict=True)


def test_dimensions_behind_the_batch_are_the_examples() -> None:
    """Code may depend on them too, and export records nothing of a dimension that is fixed."""
    model = Model(lambda m, x: m.a(x) if x.shape[1] > 4 else m.b(x)).eval()
    fast = rt.compile(model, (torch.randn(2, 6, 4),))
    x = torch.randn(5, 6, 4)
    torch.testing.assert_close(fast(x), model(x).detach())
    with pytest.raises(rt.ShapeError, match=r"\[\*, 6, 4\]"):
        fast(torch.randn(2, 3, 4))
    with pytest.raises(rt.ShapeError):
        fast.run(torch.randn(2, 3, 4), out=torch.empty(2, 3, 4))


def test_max_batch_counts_the_batch() -> None:
    fast = rt.compile(nn.Linear(8, 4).eval(), (torch.randn(8, 16, 8),), max_batch=8)
    assert fast(torch.randn(8, 16, 8)).shape == (8, 16, 4)
    with pytest.raises(rt.ShapeError, match="max_batch=8"):
        fast(torch.randn(9, 16, 8))


def test_what_cancels_is_no_difference() -> None:
    """1e4 (a + b) - 1e4 a - 1e4 b: nothing but rounding is left, and it is another one in another order."""
    model = Model(lambda m, x: (m.a(x) + m.b(x)) * 1e4 + m.a(x) * -1e4 + m.b(x) * -1e4).eval()
    fast = rt.compile(model, (torch.randn(5, 4),))
    assert isinstance(fast, rt.CompiledModel)
    x = torch.randn(3, 4)
    assert (fast(x) - model(x)).abs().max() < 0.1


def test_small_results_are_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    from rtaccel.convert.patterns import pointwise

    real = pointwise._affine
    monkeypatch.setattr(pointwise, "_affine", lambda c, v, scale, shift: real(c, v, scale * 1.01, shift))
    model = Model(lambda m, x: m.a(x) * 1e-12).eval()
    with pytest.warns(UserWarning, match="whose compiled form is not the model"):
        rt.compile(model, (torch.randn(2, 4),))
