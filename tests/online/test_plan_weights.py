"""A learner whose head the plan itself takes up: calls, loops, roll back and states."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online import Adapt, Better, RLSHead

EXAMPLE = (torch.zeros(1, 6),)


def network(seed: int = 0, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2, bias=bias)).eval()


def learner(fast: Any, **options: Any) -> Adapt:
    given = {"head": RLSHead(13, 2, p0=10.0), "commit": Better(0.05, halflife=20)} | options
    return Adapt(fast, serve="plan", **given)


def tapped(seed: int = 0, **options: Any) -> Any:
    return rt.compile(rt.online.tapped(network(seed)), EXAMPLE, **options)


def inputs(rng: np.random.Generator, rows: int = 1) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(rows, 6)).astype(np.float32))


def teach(
    adapt: Adapt, model: nn.Module, rng: np.random.Generator, steps: int, factor: float, plus: float
) -> list[float]:
    errors = []
    for _ in range(steps):
        x = inputs(rng)
        y, wanted = adapt(x), model(x) * factor + plus
        errors.append(float((y - wanted).detach().abs().max()))
        adapt.learn(wanted)
    return errors


def test_the_plan_serves_what_was_learned() -> None:
    model, fast, rng = network(), tapped(), np.random.default_rng(0)
    probe = inputs(rng)
    before, outs = fast(probe)[0].clone(), (torch.empty(1, 2), torch.empty(1, 12))
    call = fast.bind(probe, out=outs)
    adapt = learner(fast)
    errors = teach(adapt, model, rng, 300, 1.5, -0.7)
    assert adapt.committed
    assert max(errors[-20:]) < 0.02 < min(errors[:15])
    wanted = model(probe) * 1.5 - 0.7
    call()
    for y in (fast(probe)[0], outs[0]):
        torch.testing.assert_close(y, wanted, rtol=0, atol=0.02)
    assert torch.equal(adapt(probe), fast(probe)[0])
    adapt.rollback()
    assert not adapt.committed
    call()
    for y in (outs[0], adapt(probe), fast(probe)[0]):
        assert torch.equal(y, before)


def test_it_is_taken_up_anew_and_given_back() -> None:
    """The plant changes twice: the plan follows, and returns to its own weights where these are right again."""
    model, fast, rng = network(), tapped(), np.random.default_rng(1)
    adapt = learner(fast, head=RLSHead(13, 2, forget=0.97, p0=10.0))
    teach(adapt, model, rng, 200, 1.0, 1.0)
    assert adapt.committed
    first = fast(EXAMPLE[0])[0].clone()
    teach(adapt, model, rng, 400, 1.0, 3.0)
    assert adapt.committed
    torch.testing.assert_close(fast(EXAMPLE[0])[0] - first, torch.full((1, 2), 2.0), rtol=0, atol=0.05)
    served = []
    for _ in range(400):
        x = inputs(rng)
        adapt(x)
        adapt.learn(model(x))
        served.append(adapt.committed)
    assert not served[-1]
    own = tapped()
    assert torch.equal(fast(EXAMPLE[0])[0], own(EXAMPLE[0])[0])


def test_never_takes_up_noise() -> None:
    model, fast, rng = network(), tapped(), np.random.default_rng(2)
    adapt, probe = learner(fast, commit=None), inputs(np.random.default_rng(3))
    before = fast(probe)[0].clone()
    for _ in range(600):
        x = inputs(rng)
        adapt(x)
        adapt.learn(model(x).detach() + torch.from_numpy(rng.normal(size=(1, 2)).astype(np.float32)))
        assert not adapt.committed
    assert torch.equal(fast(probe)[0], before)


def test_a_loop_serves_it_while_it_runs() -> None:
    """The loop gives outputs and features; labels come later; its outputs follow without a stop."""
    model, fast, rng = network(), tapped(), np.random.default_rng(4)
    x, y, features = rt.Latest((6,)), rt.Latest((2,)), rt.Latest((12,))
    adapt = learner(fast)
    errors: list[float] = []
    due: list[tuple[int, torch.Tensor]] = []
    loop = rt.Loop(fast, x, [y, features], 500, 500, 1e9, on_miss="late", spin_us=0, lock_memory=False)
    with loop:
        for step in range(300):
            now, stamp = inputs(rng), time.monotonic_ns()
            x.put(now[0], stamp_ns=stamp)
            while (got := y.get()).stamp_ns != stamp or (phi := features.get()).stamp_ns != stamp:
                pass
            served = torch.from_numpy(got.value.copy())[None]
            wanted = (model(now) * 0.5 + 0.3).detach()
            due.append((adapt.observe(served, phi.value[None]), wanted))
            errors.append(float((served - wanted).abs().max()))
            if step > 10:
                seq, label = due.pop(0)
                adapt.learn(label, seq=seq)
    assert adapt.committed
    assert max(errors[-20:]) < 0.02 < min(errors[:15])


def test_states_go_on_with_the_same_bits() -> None:
    model, rng = network(), np.random.default_rng(5)
    adapt = learner(tapped())
    teach(adapt, model, rng, 120, 1.2, 0.4)
    adapt(EXAMPLE[0])  # one waits
    state = adapt.state_dict()
    assert state["plan.w"].shape == (2, 13)
    other = learner(tapped())
    other.load_state_dict(state)
    assert other.committed
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    a, b = np.random.default_rng(6), np.random.default_rng(6)
    assert teach(adapt, model, a, 60, 2.0, 0.0) == teach(other, model, b, 60, 2.0, 0.0)
    plain = learner(tapped())
    probe = plain(EXAMPLE[0]).clone()
    for bad in (
        {**state, "plan.w": state["plan.w"][:, :3]},
        {**state, "plan.w": np.full_like(state["plan.w"], np.nan)},
        {key: value for key, value in state.items() if key != "plan.w"},
        {key: value for key, value in state.items() if not key.startswith("renew")},
        {**state, "learner": np.array([0, 0])},
    ):
        with pytest.raises(FormatError):
            plain.load_state_dict(bad)
        assert torch.equal(plain(EXAMPLE[0]), probe)
    with pytest.raises(FormatError, match="Adapt"):
        Adapt(tapped()).load_state_dict(state)  # one that serves beside


def test_what_cannot_be_taken_up_is_refused() -> None:
    with pytest.raises(FormatError, match="serve="):
        Adapt(tapped(), serve="somewhere")
    with pytest.raises(UnsupportedProblem, match="compiled model"):
        Adapt(lambda x: (x, x), serve="plan")
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2), nn.Sigmoid()).eval()
    with pytest.raises(UnsupportedProblem, match="nothing behind"):
        Adapt(rt.compile(rt.online.tapped(model), EXAMPLE), serve="plan")
    without = rt.compile(rt.online.tapped(network(bias=False)), EXAMPLE)
    fits = learner(without, head=RLSHead(12, 2, p0=10.0))
    teach(fits, network(bias=False), np.random.default_rng(0), 150, 1.7, 0.0)
    assert fits.committed
    with pytest.raises(ShapeError, match="features"):
        fits.observe(np.zeros((1, 2)), np.zeros((1, 11)))
    with pytest.raises(ShapeError, match="y"):
        fits.observe(np.zeros((2, 2)), np.zeros((1, 12)))
    assert fits.waiting == 0


class Served(RuleBasedStateMachine):
    """In any order of calls, labels, drift and rollbacks the plan gives its own bits, or those of the weights it says."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.fast = network(7), tapped(7)
        self.adapt = learner(self.fast, commit=Better(0.05, halflife=4, least=3))
        self.rng, self.plus = np.random.default_rng(0), 1.0
        self.waiting: list[tuple[int, torch.Tensor]] = []
        self.probe = inputs(np.random.default_rng(9), 3)
        with torch.no_grad():
            self.own = self.fast(self.probe)[0].clone()

    @rule(rows=st.integers(1, 3))
    def call(self, rows: int) -> None:
        x = inputs(self.rng, rows)
        assert torch.equal(self.adapt(x), self.fast(x)[0])
        self.waiting.append((self.adapt.seq, (self.model(x) + self.plus).detach()))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def label(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.waiting) - 1))
        seq, wanted = self.waiting.pop(at)
        self.adapt.learn(wanted, seq=seq)

    @rule(plus=st.sampled_from([0.0, 1.0, -4.0]))
    def drift(self, plus: float) -> None:
        self.plus = plus

    @rule()
    def roll_back(self) -> None:
        self.adapt.rollback()
        assert not self.adapt.committed

    @invariant()
    def serves_what_it_says(self) -> None:
        y, features = self.fast(self.probe)
        state = self.adapt.state_dict()
        assert self.adapt.committed == ("plan.w" in state)
        if not self.adapt.committed:
            assert torch.equal(y, self.own)
            return
        w = state["plan.w"].astype(np.float64)
        wanted = self.own.double().numpy() + features.double().numpy() @ w[:, :12].T + w[:, 12]
        np.testing.assert_allclose(y.numpy(), wanted, atol=1e-5 * max(1.0, float(np.abs(w).sum())))


TestServed = Served.TestCase
TestServed.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
