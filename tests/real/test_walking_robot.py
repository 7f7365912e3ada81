"""A walking robot's policy with its trained weights: against its recorded run, and walking in simulation."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.real_networks import Evened, WalkingPolicy, WalkingStep, arrays, folder, walking_policy
from tests.support.networks.walking import Walk, walk

DATA = folder("robot_g1", "policy.npz")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="no robot_g1 in the test data folder (set RTACCEL_TEST_DATA to have it)"
)
INT8 = {
    "static-absmax": rt.W8A8("static", "absmax"),
    "static-percentile": rt.W8A8("static", "percentile"),
    "static-mse": rt.W8A8("static", "mse"),
    "dynamic": rt.W8A8("dynamic"),
}
RMSE_LIMIT = 0.08
"""Of the forward velocity in m/s; float32 has 0.039."""


@pytest.fixture(scope="module")
def policy() -> WalkingPolicy:
    return walking_policy(DATA)


@pytest.fixture(scope="module")
def trace() -> tuple[Tensor, Tensor]:
    """Observations [1000, 47] and actions [1000, 12] of a run of 20 s."""
    stored = arrays(DATA / "trace.npz")
    return stored["obs"], stored["action"]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((DATA / "config.json").read_text())


def streamed(policy: nn.Module, observations: Tensor, scheme: rt.W8A8 | str) -> rt.StreamModel:
    static = isinstance(scheme, rt.W8A8) and scheme.activation == "static"
    windows = observations.view(10, 100, 47).transpose(0, 1)  # ten of two seconds
    return rt.stream(policy, observations[:1], scheme, calibration=[windows] if static else None)


def actions(live: rt.StreamModel, observations: Tensor) -> Tensor:
    return torch.cat([live.step(observation[None]) for observation in observations])


def test_streamed_float32_gives_the_recorded_actions(policy: WalkingPolicy, trace: tuple[Tensor, Tensor]) -> None:
    observations, want = trace
    live = streamed(policy, observations, "float32")
    assert (actions(live, observations) - want).abs().max() <= 1e-5
    live.reset()
    assert (actions(live, observations[:50]) - want[:50]).abs().max() <= 1e-5


def test_states_in_and_out_give_the_recorded_actions(policy: WalkingPolicy, trace: tuple[Tensor, Tensor]) -> None:
    observations, want = trace
    state = (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))
    fast = rt.compile(WalkingStep(policy).eval(), (observations[None, :1], state))
    assert fast._direct is not None  # one native call
    for observation, action in zip(observations, want):
        got, state = fast(observation[None, None], state)
        assert (got[0, 0] - action).abs().max() <= 1e-5


@pytest.mark.parametrize("scheme", INT8.values(), ids=INT8)
def test_int8_stays_near_the_recorded_actions(
    policy: WalkingPolicy, trace: tuple[Tensor, Tensor], scheme: rt.W8A8
) -> None:
    """Calibration brings the observations to one range; the scale of a row has to be helped to it."""
    observations, want = trace
    errors = []
    for network in (policy, Evened(policy, observations).eval()):
        live = streamed(network, observations, scheme)
        assert live._direct is not None  # one native call
        assert live.weight_bytes < 40_000  # of 125,616 in float32
        errors.append(float((actions(live, observations) - want).norm() / want.norm()))
    plain, evened = errors
    assert plain < (0.03 if scheme.activation == "static" else 0.08)
    assert evened < 0.03


def check_walk(done: Walk) -> None:
    assert done.fell_at is None
    assert len(done.velocity) == 1000


def test_float32_walks_as_recorded(policy: WalkingPolicy, trace: tuple[Tensor, Tensor], config: dict[str, Any]) -> None:
    observations, _ = trace
    done = walk(DATA, config, streamed(policy, observations, "float32"))
    check_walk(done)
    assert (torch.from_numpy(done.observations[:50]) - observations[:50]).abs().max() < 1e-4
    measured = config["measured_20s"]
    assert done.rmse == pytest.approx(measured["rmse"], abs=0.004)
    assert done.distance == pytest.approx(measured["dist"], rel=0.02)


@pytest.mark.parametrize("scheme", [s for s in INT8.values() if s.activation == "static"], ids=lambda s: s.observer)
def test_int8_walks(
    policy: WalkingPolicy, trace: tuple[Tensor, Tensor], config: dict[str, Any], scheme: rt.W8A8
) -> None:
    """20 s in closed loop."""
    done = walk(DATA, config, streamed(policy, trace[0], scheme))
    check_walk(done)
    assert done.rmse <= RMSE_LIMIT


def test_int8_with_a_scale_per_row_walks(
    policy: WalkingPolicy, trace: tuple[Tensor, Tensor], config: dict[str, Any]
) -> None:
    """Without calibration the network as it is walks too, but how fast is luck: from 0.06 to 0.1 m/s off."""
    done = walk(DATA, config, streamed(policy, trace[0], INT8["dynamic"]))
    check_walk(done)
    assert done.rmse <= 1.5 * RMSE_LIMIT
    done = walk(DATA, config, streamed(Evened(policy, trace[0]).eval(), trace[0], INT8["dynamic"]))
    check_walk(done)
    assert done.rmse <= RMSE_LIMIT


def test_a_policy_that_does_nothing_falls(policy: WalkingPolicy, config: dict[str, Any]) -> None:
    """The measure can fail: with the head's weights at nothing the robot does not walk."""
    still = WalkingPolicy().eval()
    still.load_state_dict({name: torch.zeros_like(value) for name, value in policy.state_dict().items()})
    done = walk(DATA, config, rt.stream(still, torch.zeros(1, 47)))
    assert done.fell_at is not None or done.rmse > RMSE_LIMIT
