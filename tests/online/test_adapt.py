"""Adapt: what is served when, labels late and out of order, rollback, drift, states; and a shift of real sensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online import Adapt, Better, RLSHead
from tests.support import turbofan


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2)).eval()


def callable_model(x: Any) -> tuple[Any, Any]:
    """Without torch: features are the inputs, and the output is their sum."""
    x = np.asarray(x, dtype=np.float32)
    return x.sum(1, keepdims=True), x


def learner(**options: Any) -> Adapt:
    return Adapt(callable_model, commit=Better(0.05, halflife=10, least=5), **options)


def test_serves_the_model_until_the_head_is_better() -> None:
    model = network()
    fast = rt.compile(rt.online.tapped(model), (torch.zeros(1, 6),))
    adapt = Adapt(fast, head=RLSHead(13, 2, p0=10.0), commit=Better(0.05, halflife=20))
    rng = np.random.default_rng(0)
    errors = []
    for step in range(300):
        x = torch.from_numpy(rng.normal(size=(1, 6)).astype(np.float32))
        y, before = adapt(x), adapt.committed
        assert isinstance(y, torch.Tensor)
        assert y.shape == (1, 2)
        base, features = fast(x)
        torch.testing.assert_close(base, model(x))
        torch.testing.assert_close(features, model[:2](x))  # type: ignore[index]
        if not before:
            assert torch.equal(y, base)
        wanted = base + 1.0 + 0.3 * features[:, :2]
        errors.append(float((y - wanted).abs().max()))
        adapt.learn(wanted)
        assert adapt.seq == step
        assert adapt.waiting == 0
    assert adapt.committed
    assert max(errors[-20:]) < 0.05 < min(errors[:20])
    assert adapt.commit.rms[1] < adapt.commit.rms[0]


def test_never_serves_a_head_that_is_worse() -> None:
    """Labels are the model's output and noise: nothing can be learned, and the model's bits are served."""
    adapt, rng = Adapt(callable_model), np.random.default_rng(1)
    for _ in range(2000):
        x = rng.normal(size=(1, 3)).astype(np.float32)
        y = adapt(x)
        np.testing.assert_array_equal(y, callable_model(x)[0])
        adapt.learn(y + rng.normal(size=(1, 1)))
        assert not adapt.committed


def test_labels_late_and_in_any_order() -> None:
    rng = np.random.default_rng(2)
    now, late = learner(), learner()
    x = rng.normal(size=(60, 1, 3)).astype(np.float32)
    labels = x.sum(2) * 2
    for a in x:
        late(a)
    for a, label in zip(x, labels, strict=True):
        now(a)
        now.learn(label)
    for seq in range(60):
        late.learn(labels[seq], seq=seq)
    np.testing.assert_array_equal(now.head.weights, late.head.weights)  # type: ignore[union-attr]
    other = learner()
    for a in x:
        other(a)
    for seq in rng.permutation(60):
        other.learn(labels[seq], seq=int(seq))
    np.testing.assert_allclose(other.head.weights, now.head.weights, atol=1e-2)  # type: ignore[union-attr]


def test_sequence_numbers_that_wait_for_nothing() -> None:
    adapt = learner(keep=3)
    with pytest.raises(FormatError, match="not given yet"):
        adapt.learn([[1.0]])
    for _ in range(5):
        adapt(np.ones((1, 3)))
    for seq, why in ((5, "not given yet"), (-1, "not given yet"), (1, "older than the last 3"), ("a", "not given yet")):
        with pytest.raises(FormatError, match=why):
            adapt.learn([[1.0]], seq=seq)  # type: ignore[arg-type]
    adapt.learn([[1.0]], seq=3)
    with pytest.raises(FormatError, match="learned before"):
        adapt.learn([[1.0]], seq=3)
    with pytest.raises(ShapeError, match="y_true"):
        adapt.learn([[1.0, 2.0]], seq=4)
    assert adapt.waiting == 2
    assert adapt.head is not None
    assert adapt.head.learned == 1
    adapt.learn([[np.nan]], seq=4)  # no label
    assert (adapt.head.learned, adapt.head.rejected) == (1, 1)


def test_rollback_restores_the_bits() -> None:
    adapt, rng = learner(), np.random.default_rng(3)
    x = rng.normal(size=(80, 1, 3)).astype(np.float32)
    before = adapt(x[0])
    for a in x:
        adapt(a)
        adapt.learn(2 * a.sum(1) + 1)
    assert adapt.committed
    assert (adapt(x[0]) != before).all()
    snapshot = {key: value for key, value in adapt.state_dict().items() if key.startswith("at_commit.")}
    adapt.rollback()
    assert not adapt.committed
    np.testing.assert_array_equal(adapt(x[0]), before)
    for key, value in snapshot.items():
        np.testing.assert_array_equal(adapt.state_dict()[key.replace("at_commit", "head")], value)
    for a in x[:4]:
        adapt(a)
        adapt.learn(2 * a.sum(1) + 1)
        assert not adapt.committed  # from fresh labels alone
    for a in x[4:]:
        adapt(a)
        adapt.learn(2 * a.sum(1) + 1)
    assert adapt.committed


class Detector:
    """As river's: drift_detected after an update."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.drift_detected = False

    def update(self, x: float) -> None:
        self.seen.append(x)
        self.drift_detected = len(self.seen) == 30


def test_on_drift() -> None:
    called = []
    for on_drift in ("inflate", "reset", called.append):
        adapt, rng, detector = learner(drift=Detector(), on_drift=on_drift), np.random.default_rng(4), None
        detector = adapt.drift
        for i in range(40):
            x = rng.normal(size=(1, 3)).astype(np.float32)
            y = adapt(x)
            wanted = 3 * x.sum(1)
            if i == 29:
                assert adapt.head is not None
                before = adapt.head.state_dict()
            adapt.learn(wanted)
            np.testing.assert_allclose(detector.seen[-1], abs(y[0, 0] - wanted[0]), rtol=1e-5, atol=1e-6)
            if i == 29:
                after = adapt.head.state_dict()  # type: ignore[union-attr]
                if on_drift == "inflate":
                    assert (after["D"] > 5 * before["D"]).all()
                elif on_drift == "reset":
                    assert not after["w"].any()
                    assert not adapt.committed
        assert adapt.drifts == 1
    assert called == [adapt]


def test_with_a_detector_of_river() -> None:
    drift = pytest.importorskip("river.drift", reason="river is not here: pip install 'rtaccel[demo]'")
    rng = np.random.default_rng(5)
    adapt = learner(drift=drift.ADWIN(delta=0.01), head=RLSHead(4, 1, forget=0.9999))
    errors = []
    for i in range(1500):
        x = rng.normal(size=(1, 3)).astype(np.float32)
        wanted = (2 if i < 800 else -4) * x.sum(1) + 0.1 * rng.normal(size=1)
        errors.append(float(np.abs(adapt(x)[0] - wanted)[0]))
        adapt.learn(wanted)
    assert adapt.drifts >= 1
    assert np.mean(errors[-100:]) < 0.3


def test_batches_and_constant_features() -> None:
    rng = np.random.default_rng(6)
    plain, constant, made = learner(head=RLSHead(3, 1)), learner(head=RLSHead(4, 1, p0=10.0)), learner()
    for adapt in (plain, constant, made):
        for _ in range(40):
            x = rng.normal(size=(8, 3)).astype(np.float32)
            y = adapt(x)
            assert y.shape == (8, 1)
            adapt.learn(x.sum(1) + 5.0)
    assert made.head is not None
    assert made.head.features == 4
    assert constant.commit.rms[1] < 0.1 < plain.commit.rms[1]
    with pytest.raises(ShapeError, match="head"):
        learner(head=RLSHead(7, 1))(np.ones((1, 3)))
    with pytest.raises(ShapeError, match=r"expected 3 features \(or one more\) and 1 outputs"):
        learner(head=RLSHead(3, 2))(np.ones((1, 3)))


def test_state_goes_on() -> None:
    rng = np.random.default_rng(7)
    adapt = learner()
    for i in range(60):
        x = rng.normal(size=(1, 3)).astype(np.float32)
        adapt(x)
        if i % 3:
            adapt.learn(2 * x.sum(1))
    state = adapt.state_dict()
    other = learner()
    other.load_state_dict(state)
    assert other.committed == adapt.committed
    assert other.waiting == adapt.waiting == 20
    for one in (adapt, other):
        one.learn([[1.0]], seq=0)
    for _ in range(20):
        x = rng.normal(size=(1, 3)).astype(np.float32)
        np.testing.assert_array_equal(adapt(x), other(x))
        for one in (adapt, other):
            one.learn(-x.sum(1))
    for key, value in adapt.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], value)
    good = other.state_dict()
    for bad in (
        {**good, "learner": np.array([2, 0])},
        {**good, "pending.seq": good["pending.seq"][::-1]},
        {**good, "pending.phi": good["pending.phi"][:-1]},
        {**good, "commit.errors": np.array([1.0, np.nan, 0.0])},
        {**good, "head.D": good["head.D"] * np.nan},
        {key: value for key, value in good.items() if not key.startswith("fresh")},
    ):
        with pytest.raises(FormatError):
            other.load_state_dict(bad)
        for key, value in other.state_dict().items():
            np.testing.assert_array_equal(value, good[key])


def test_turbofans_with_shifted_sensors() -> None:
    """Sensors are off by 1.5 of their deviations; the labels of an engine come when it failed. After 20 engines the error is less
    than half, near that of the clean sensors; and what was served was never much worse than the model."""
    engines = turbofan.engines()
    net = turbofan.trained(engines[:50], epochs=15)
    rng = np.random.default_rng(2)
    shift = (rng.choice([-1, 1], 14) * 1.5 * np.concatenate(engines[:50]).std(0)).astype(np.float32)
    adapt = Adapt(rt.compile(rt.online.tapped(net), (torch.zeros(1, 86),)), keep=500)

    def run(engine: np.ndarray[Any, Any], learn: bool) -> tuple[list[float], list[float]]:
        x, wanted = turbofan.features(engine + shift)[10:], turbofan.targets(len(engine))[10:]
        served = [float(adapt(torch.from_numpy(row[None]))) for row in x]
        first = adapt.seq - len(x) + 1
        model = net(torch.from_numpy(x)).detach().numpy()[:, 0]
        if learn:
            for i, label in enumerate(wanted):
                adapt.learn([[label]], seq=first + i)
        return list(served - wanted), list(model - wanted)

    def rms(errors: list[float]) -> float:
        return float(np.sqrt(np.mean(np.square(errors)))) * turbofan.CAP

    learning = [run(engine, learn=True) for engine in engines[50:70]]
    after = [run(engine, learn=False) for engine in engines[80:]]
    model, served = (rms([e for run_ in after for e in run_[i]]) for i in (1, 0))
    assert model > 25
    assert served < 0.5 * model
    assert served < 16
    assert rms([e for run_ in learning for e in run_[0]]) < rms([e for run_ in learning for e in run_[1]])
