"""Models with state of their own in int8: calibrated call after call, near the model, and NaN until a reset."""

from __future__ import annotations

import pytest
import torch

import rtaccel as rt
from rtaccel.runtime.stateful.build import CapturedState
from tests.support.networks.stateful import Drifting, Policy, compiled_beside, made


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("scheme", ["w8a8", rt.W8A8("dynamic"), "w8a16", "bfloat16", {"actor.*": "w8a8"}], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_results_stay_near_the_model(scheme, batch: int) -> None:
    calibration = [torch.randn(8 * batch, 48) for _ in range(6)]
    fast, model = compiled_beside(made(Policy(batch)), torch.randn(batch, 48), scheme=scheme, calibration=calibration)
    assert "verified against the model over 8 calls" in fast.explain(measure=False)
    off, size = 0.0, 0.0
    for _ in range(60):
        x = torch.randn(batch, 48)
        got, want = fast(x), model(x)
        off, size = off + rms(got - want) ** 2, size + rms(want) ** 2
    assert 0 < off / size < 0.05**2


def test_calibration_goes_on_from_batch_to_batch() -> None:
    """Two rows at each call are two calls of a model for one, and each has the state that the one before left."""
    model = made(Drifting(1))
    captured = CapturedState(model, (torch.randn(1, 5),))
    batches = [torch.randn(2, 5), torch.randn(1, 5)]
    calls = list(captured.calls(batches))
    at = {state.name: 1 + i for i, state in enumerate(captured.keeping.states)}
    assert [int(call[at["count"]]) for call in calls] == [3, 4, 5]
    rows = torch.cat(batches)
    for call, row in zip(calls, rows):
        assert torch.equal(call[0][0], row)
        torch.testing.assert_close(call[at["level"]], model.level)
        model(row[None])


def test_ranges_are_those_of_later_calls() -> None:
    """A level that rises to ten times its first value is not clipped to what one call shows."""

    class Rises(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = torch.nn.Linear(8, 8)
            self.register_buffer("level", torch.zeros(1, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.level += x.abs()
            return self.lin(self.level)

    fast, model = compiled_beside(
        made(Rises()), torch.ones(1, 8), scheme="w8a8", calibration=[torch.ones(1, 8) for _ in range(20)]
    )
    for _ in range(20):
        got, want = fast(torch.ones(1, 8)), model(torch.ones(1, 8))
    assert rms(got - want) < 0.03 * rms(want)


def test_a_nan_lasts_until_the_reset_and_shows_in_the_state() -> None:
    calibration = [torch.randn(32, 48)]
    fast, _ = compiled_beside(made(Policy()), torch.randn(1, 48), scheme="w8a8", calibration=calibration)
    first = fast(torch.zeros(1, 48))
    fast(torch.full((1, 48), torch.nan))
    for _ in range(5):
        assert fast(torch.randn(1, 48)).isnan().all()
    state = fast.state_dict()
    assert state["hidden_state"].isnan().all()
    fast.reset()
    assert torch.equal(fast(torch.zeros(1, 48)), first)
    fast.load_state_dict(state)
    assert fast(torch.zeros(1, 48)).isnan().all()


def test_a_state_of_another_scheme_is_taken_with_its_weights() -> None:
    calibration = [torch.randn(32, 48)]
    small, _ = compiled_beside(made(Policy()), torch.randn(1, 48), scheme="w8a8", calibration=calibration)
    fast, _ = compiled_beside(made(Policy(), seed=2), torch.randn(1, 48))
    for _ in range(4):
        small(torch.randn(1, 48))
    fast.load_state_dict(small.state_dict())
    for _ in range(3):
        x = torch.randn(1, 48)
        assert torch.equal(fast(x), small(x))
