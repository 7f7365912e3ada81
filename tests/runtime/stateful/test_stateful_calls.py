"""A compiled model with state of its own: every way to call it goes on from the same state, and it can be read, set and reset."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.stateful.model import StatefulModel
from tests.realtime.loops import SLACK
from tests.support.networks.stateful import Drifting, Policy, compiled_beside, made


def test_all_ways_to_call_share_one_state() -> None:
    fast, model = compiled_beside(made(Policy(2)), torch.randn(2, 48))
    assert isinstance(fast, StatefulModel)
    x, y = torch.randn(2, 48), torch.empty(2, 12)
    step = fast.bind(x, out=y)
    fast.seal()
    for call in range(24):
        x.copy_(torch.randn(2, 48))
        if call % 4 == 0:
            step()
        elif call % 4 == 1:
            fast.run(x, out=y)
        elif call % 4 == 2:
            y.copy_(fast(x))
        else:
            y.copy_(
                fast(x.expand(2, 48)[:, torch.arange(48)].T.contiguous().T)
            )  # strided: it is copied, and moves once
        torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


def test_the_state_has_the_names_shapes_and_dtypes_of_the_model() -> None:
    fast, model = compiled_beside(made(Drifting()), torch.randn(2, 5))
    for call in range(5):
        x = torch.randn(2, 5) + (call == 3)
        torch.testing.assert_close(fast(x), model(x))
    state = fast.state_dict()
    assert state["count"].dtype == torch.int64 and state["count"].shape == () and int(state["count"]) == 8
    assert state["seen"].dtype == torch.bool and bool(state["seen"]) == bool(model.seen)
    torch.testing.assert_close(state["level"], model.level)
    assert "state: 49 bytes in 3 buffers" in fast.explain(measure=False)
    assert "fixed to 2 (the state" in fast.explain(measure=False)


def test_a_checkpoint_of_the_model_sets_the_state_alone() -> None:
    fast, model = compiled_beside(made(Policy()), torch.randn(1, 48))
    other = copy.deepcopy(model)
    for _ in range(6):
        model(torch.randn(1, 48))
    own = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("_state")}
    fast(torch.randn(1, 48))
    fast.load_state_dict(own, strict=False)
    x = torch.randn(1, 48)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    fast.reset()
    torch.testing.assert_close(fast(x), other(x), rtol=1e-4, atol=1e-5)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    fast, model = compiled_beside(made(Policy()), torch.randn(1, 48))
    x = torch.randn(1, 48)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    for bad in (
        torch.zeros(1, 2, 64),
        torch.zeros(1, 1, 64, dtype=torch.float64),
        3,
        torch.zeros(1, 1, 64, device="meta"),
    ):
        with pytest.raises(rt.FormatError, match="hidden_state"):
            fast.load_state_dict({"hidden_state": bad}, strict=False)
    with pytest.raises(rt.FormatError, match="cell_state"):
        fast.load_state_dict({k: v for k, v in fast.state_dict().items() if k != "cell_state"})
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_inside_another_module() -> None:
    fast, model = compiled_beside(made(Policy()), torch.randn(1, 48))
    whole = nn.ModuleDict({"policy": fast, "head": nn.Linear(2, 2)})
    for _ in range(3):
        x = torch.randn(1, 48)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    assert "policy.hidden_state" in state
    want = fast(x)
    whole.load_state_dict(state)
    torch.testing.assert_close(fast(x), want, rtol=0, atol=0)


def test_other_weights_while_the_state_goes_on() -> None:
    fast, model = compiled_beside(made(Policy()), torch.randn(1, 48))
    changed = made(Policy(), seed=1)
    other, _ = compiled_beside(changed, torch.randn(1, 48))
    for _ in range(4):
        x = torch.randn(1, 48)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    fast.swap(other)
    changed.hidden_state.copy_(model.hidden_state)
    changed.cell_state.copy_(model.cell_state)
    torch.testing.assert_close(fast(x), changed(x), rtol=1e-4, atol=1e-5)


def test_a_file_of_it_keeps_state_without_torch(tmp_path) -> None:
    model = made(Drifting())
    model(torch.randn(2, 5))
    fast, model = compiled_beside(model, torch.randn(2, 5))
    start = copy.deepcopy(model)
    loaded = rt.load(rt.save(fast, tmp_path / "drifting.rta"))
    x = torch.randn(2, 5)

    def step(who: nn.Module) -> None:
        for got, want in zip(loaded(x.numpy()), who(x)):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)

    for _ in range(5):
        step(model)
        fast(x)
    loaded.reset()
    step(start)
    going_on = rt.load(rt.save(fast, tmp_path / "later.rta", states=True))
    for got, want in zip(going_on(x.numpy()), model(x)):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*the system refused")
def test_a_loop_keeps_the_state_and_warm_runs_leave_it_alone() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 2)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.lin(x) * 0 + self.calls

    fast = rt.compile(made(Counts()), torch.randn(1, 3), strict=True)
    x, y = rt.Latest((3,)), rt.Latest((2,))
    with rt.Loop(fast, x, y, spin_us=1500, **SLACK) as loop:
        x.put(np.ones(3, np.float32))
        end = time.monotonic() + 60
        while loop.stats().fresh < 5 and time.monotonic() < end:
            time.sleep(0.01)
    done = loop.stats().fresh
    assert done >= 5
    assert float(y.get().value[0]) == float(fast.state_dict()["calls"]) == done


def test_measuring_moves_the_state_as_calls_do() -> None:
    fast, model = compiled_beside(made(Policy()), torch.randn(1, 48))
    x = torch.randn(1, 48)
    rt.measure(fast, (x,), samples=700)
    fast.explain()
    fast.reset()
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_another_batch_is_refused_and_moves_nothing() -> None:
    fast, model = compiled_beside(made(Policy(2)), torch.randn(2, 48))
    for rows in (1, 3):
        with pytest.raises(rt.ShapeError, match="the state that the model keeps"):
            fast(torch.randn(rows, 48))
    x = torch.randn(2, 48)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_nan_stays_as_long_as_in_the_model() -> None:
    class Three(nn.Module):
        """The newest three inputs: a NaN is gone after three calls."""

        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(12, 4)
            self.register_buffer("past", torch.zeros(1, 3, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.past = torch.cat([self.past[:, 1:], x.unsqueeze(1)], 1)
            return self.lin(self.past.flatten(1))

    fast, model = compiled_beside(made(Three()), torch.randn(1, 4))
    for call in range(8):
        x = torch.full((1, 4), torch.nan) if call == 2 else torch.randn(1, 4)
        got, want = fast(x), model(x)
        assert bool(got.isnan().all()) == bool(want.isnan().all()) == (2 <= call < 5)
    policy, model = compiled_beside(made(Policy()), torch.randn(1, 48))
    policy(torch.full((1, 48), torch.nan))
    assert policy(torch.zeros(1, 48)).isnan().all()
    policy.reset()
    x = torch.randn(1, 48)
    torch.testing.assert_close(policy(x), model(x), rtol=1e-4, atol=1e-5)
