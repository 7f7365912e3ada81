"""Training with fake quantization on real data: int4 where rounding after training loses too much."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support import turbofan
from tests.support.networks.real_networks import WalkingPolicy, arrays, folder, walking_policy
from tests.support.networks.walking import walk

W4A8 = rt.W4A8(32, "static")


def fit(model: nn.Module, x: Tensor, y: Tensor, loss_of: Any, steps: int, rate: float, seed: int = 0) -> None:
    """Adam with one cycle of its rate, on batches of 64."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss_of(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    model.eval()


# -- digits ------------------------------------------------------------------------------------------------------------


def test_digits_in_w4a8() -> None:
    """With groups of 256 inputs, which round-to-nearest does not survive as well."""
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    data = sklearn.load_digits()
    x, y = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    train, test = order[:1300], order[1300:]
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    entropy = nn.functional.cross_entropy
    fit(model, x[train], y[train], entropy, 500, 5e-3)

    def accuracy(m: Any) -> float:
        return float((m(x[test]).argmax(1) == y[test]).float().mean())

    before = accuracy(model)
    scheme = rt.W4A8(256, "static")
    fitted = rt.compile(model, (x[:1],), scheme, calibration=[x[train]])
    trained = copy.deepcopy(model)
    report = rt.prepare_qat_(trained, scheme, calibration=[x[train]])
    assert report.prepared == 4
    fit(trained, x[train], y[train], entropy, 200, 1e-3)
    fast = rt.compile(trained, (x[:1],), strict=True)
    assert accuracy(fast) == pytest.approx(accuracy(trained), abs=1.01 / len(test))
    assert before > 0.96
    assert accuracy(fast) >= before - 0.01
    assert accuracy(fast) >= accuracy(fitted) - 0.005


# -- turbofans ---------------------------------------------------------------------------------------------------------


def test_remaining_life_in_w4a8() -> None:
    """Cycles (rmse) on engines that training did not see: int4 by training within 0.2 of float32, by rounding it is not."""
    engines = turbofan.engines()
    network = turbofan.trained(engines[:60], epochs=12)
    x = np.concatenate([turbofan.features(e)[10:] for e in engines[:60]])
    y = np.concatenate([turbofan.targets(len(e))[10:] for e in engines[:60]])
    fresh = torch.from_numpy(np.concatenate([turbofan.features(e)[10:] for e in engines[60:]]))
    wanted = torch.from_numpy(np.concatenate([turbofan.targets(len(e))[10:] for e in engines[60:]]))
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)[:, None]

    def rmse(m: Any) -> float:
        with torch.no_grad():
            return float((m(fresh)[:, 0] - wanted).square().mean().sqrt()) * turbofan.CAP

    seen = inputs[torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:2000]]
    example = (inputs[:1],)
    scheme = rt.W4A8(64, "static")
    rounded = rmse(rt.compile(network, example, scheme, calibration=[seen]))
    trained = copy.deepcopy(network)
    assert rt.prepare_qat_(trained, scheme, calibration=[seen]).prepared == 3
    fit(trained, inputs, targets, nn.functional.mse_loss, 600, 1e-3)
    exact, fast = rmse(network), rt.compile(trained, example, strict=True)
    assert rmse(fast) == pytest.approx(rmse(trained), abs=0.02)
    assert rmse(fast) <= exact + 0.2
    assert rmse(fast) < rounded


# -- a walking robot ---------------------------------------------------------------------------------------------------

DATA = folder("robot_g1", "policy.npz")


def imitated(policy: WalkingPolicy, observations: Tensor) -> WalkingPolicy:
    """The policy in W4A8, trained to give the actions of the float one on the trace and beside it."""
    student = copy.deepcopy(policy)
    assert rt.prepare_qat_(student, W4A8, calibration=[windows(observations)]).prepared == 3
    torch.manual_seed(0)
    steps, length, spread = 120, 50, observations.std(0)
    optimizer = torch.optim.Adam(student.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    student.train()
    for _ in range(steps):
        starts = torch.randint(len(observations) - length, (24,)).tolist()
        x = torch.stack([observations[s : s + length] for s in starts], 1)
        x = x + 0.1 * torch.rand(1, 24, 1) * spread * torch.randn_like(x)
        with torch.no_grad():
            want = policy(x)
        optimizer.zero_grad()
        (student(x) - want).square().mean().backward()
        optimizer.step()
        schedule.step()
    return student.eval()


def windows(observations: Tensor) -> Tensor:
    return observations[: len(observations) // 100 * 100].view(-1, 100, 47).transpose(0, 1)


@pytest.mark.skipif(DATA is None, reason="no robot_g1 in the test data folder (set RTACCEL_TEST_DATA to have it)")
def test_a_walking_policy_in_w4a8_by_imitation() -> None:
    """Trained on the first 14 s of a run; judged on the last 6 s, and walking 20 s where mujoco is there."""
    import json

    policy, stored = walking_policy(DATA), arrays(DATA / "trace.npz")
    observations, want = stored["obs"], stored["action"]
    student = imitated(policy, observations[:700])

    def error(live: rt.StreamModel) -> float:
        got = torch.cat([live.step(o[None]) for o in observations])
        return float((got[700:] - want[700:]).norm() / want[700:].norm())

    live = rt.stream(student, observations[:1])
    assert live._direct is not None
    trained = error(live)
    rounded = error(rt.stream(policy, observations[:1], W4A8, calibration=[windows(observations[:700])]))
    assert trained < 0.5 * rounded
    fitted = rt.W4A8(32, "static", rounding="gptq")
    assert (
        error(rt.stream(policy, observations[:1], fitted, calibration=[windows(observations[:700])])) < 0.25 * rounded
    )
    assert trained < 0.15
    config = json.loads((DATA / "config.json").read_text())
    live.reset()
    done = walk(DATA, config, live)
    assert done.fell_at is None
    assert done.rmse <= 0.08
