"""State that cannot be kept in tensors of one shape is refused with the reason, and such a model runs as it is."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel
from tests.support.networks.stateful import Drifting, Policy, compiled_beside, made


class Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("cache", torch.zeros(2, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.cache = torch.cat([self.cache, x.unsqueeze(1)], 1)
        return self.lin(x) + self.cache.sum(1)


class CountsInPython(nn.Module):
    """A number of Python decides from when on it is another model, which no comparison over a few calls would show."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.calls = nn.Linear(4, 4), 0
        self.register_buffer("h", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.h.copy_(self.lin(x + self.h))
        return self.h if self.calls < 100 else -self.h


class ReadsItsState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("n", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.lin(x) if int(self.n) < 30 else self.lin(-x)


class Shares(nn.Module):
    """One memory under two names: what is added to the one is in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, both = nn.Linear(4, 4), torch.zeros(2, 8)
        self.left, self.both = both[:, :4], both

    def forward(self, x: Tensor) -> Tensor:
        self.left += x
        self.both *= 0.5
        return self.lin(self.both[:, :4])


class Falls(nn.Module):
    """A call without a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("h", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.h += torch.special.airy_ai(self.lin(x))
        return self.h * 2


KINDS = (
    (Grows, r"self\.cache when called, whose shape changes from call to call"),
    (CountsInPython, r"self\.calls when called, which is no tensor"),
    (ReadsItsState, r"self\.n when called, and cannot be captured with that: .* reads numbers"),
    (Shares, "shares memory with another"),
    (Falls, "has no kernel"),
)


@pytest.mark.parametrize(("kind", "said"), KINDS, ids=lambda k: getattr(k, "__name__", ""))
def test_it_is_named_and_runs_as_it_is(kind: type[nn.Module], said: str) -> None:
    model, x = made(kind()), torch.randn(2, 4)
    twin = copy.deepcopy(model)
    with pytest.raises(rt.UnsupportedProblem, match=said):
        rt.compile(model, (x,), strict=True)
    with pytest.warns(UserWarning, match=said):
        fast = rt.compile(model, (x,))
    assert not isinstance(fast, CompiledModel)
    for _ in range(35):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), twin(x))


def test_a_forced_backend_without_states_is_refused() -> None:
    model, x = made(Policy()), torch.randn(1, 48)
    with pytest.raises(rt.UnsupportedProblem, match="backend='portable'"):
        rt.compile(model, (x,), backend="portable", strict=True)
    fast, twin = compiled_beside(model, x, backend="cpu")
    torch.testing.assert_close(fast(x), twin(x), rtol=1e-4, atol=1e-5)


def test_dynamic_sizes_are_refused() -> None:
    with pytest.raises(rt.UnsupportedProblem, match=r"changes self\.hidden_state"):
        rt.compile(made(Policy()), (torch.randn(1, 48),), dynamic={0: {1: (40, 48)}})


def test_a_wrong_form_is_found_by_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that keeps what it read instead of what it made is right at the first call, and not handed out."""
    from rtaccel.convert import kept_states

    source = kept_states._Rewrite._source
    monkeypatch.setattr(kept_states._Rewrite, "_source", lambda self, name, state: source(self, state.name, state))
    with pytest.raises(rt.UnsupportedProblem, match=r"compiled form is not the model: at call 2"):
        rt.compile(made(Policy()), (torch.randn(1, 48),), strict=True)


def test_unverified_and_sparse_and_with_threads() -> None:
    x = torch.randn(2, 5)
    fast, model = compiled_beside(made(Drifting()), x, verify=False)
    assert "not verified" in fast.explain(measure=False)
    torch.testing.assert_close(fast(x), model(x))
    model = made(Policy(), seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = rt.compile(model, (torch.randn(1, 48),), sparsity={"actor.0": rt.Unstructured(0.9)}, threads=2)
    assert fast(torch.randn(1, 48)).shape == (1, 12)


def test_an_attribute_that_nobody_reads_is_no_state() -> None:
    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.shown = nn.Linear(4, 4), None
            self.register_buffer("h", torch.zeros(1, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.shown = self.lin(x)
            self.h.copy_(torch.tanh(self.shown + self.h))
            return self.h + 1

    fast, model = compiled_beside(made(Notes()), torch.randn(1, 4))
    assert "state: 16 bytes in 1 buffer;" in fast.explain(measure=False)
    assert "shown" not in fast.state_dict()
    for _ in range(5):
        x = torch.randn(1, 4)
        torch.testing.assert_close(fast(x), model(x))


def test_what_the_first_call_makes_is_taken_as_zeros_where_that_is_the_same() -> None:
    class Lazy(nn.Module):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.lin, self.h, self.start = nn.Linear(4, 4), None, start

        def forward(self, x: Tensor) -> Tensor:
            if self.h is None:
                self.h = torch.full((x.shape[0], 4), self.start)
            self.h = torch.tanh(self.lin(x) + self.h)
            return self.h

    fast, model = compiled_beside(made(Lazy(0.0)), torch.randn(2, 4))
    assert "zeros stand for what self.h did not hold" in fast.explain(measure=False)
    for _ in range(4):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), model(x))
    other = made(Lazy(0.5))
    with pytest.raises(rt.UnsupportedProblem, match=r"at call 1 .* Call the model once before it is compiled: self\.h"):
        rt.compile(other, (torch.randn(2, 4),), strict=True)
    other(torch.randn(2, 4))
    fast, model = compiled_beside(other, torch.randn(2, 4))
    torch.testing.assert_close(fast(x), model(x))
