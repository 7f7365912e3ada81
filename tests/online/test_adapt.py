"""Adapt: what is served when, labels late and out of order, rollback, drift, states; and a shift of real sensors."""

from __future__ import annotations

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


def test_models_without_features() -> None:
    with pytest.raises(UnsupportedProblem, match="tapped"):
        Adapt(lambda x: x)(torch.zeros(1, 6))
    int8 = rt.compile(network(), (torch.zeros(1, 6),), "w8a8", calibration=[torch.randn(8, 6)])
    with pytest.raises(UnsupportedProblem, match="tapped"):
        Adapt(int8)
    with pytest.raises(UnsupportedProblem, match=r"nn\.Linear"):
        rt.online.tapped(nn.Sequential(nn.ReLU()))
    with pytest.raises(UnsupportedProblem, match="tap"):
        rt.online.tapped(network(), "layer9")
    model = network()
    features = rt.compile(model[:2].eval(), (torch.zeros(1, 6),))  # type: ignore[index]
    adapt = Adapt(rt.compile(model, (torch.zeros(1, 6),)), tap=features)
    adapt(torch.zeros(1, 6))
    assert adapt.head is not None
    assert adapt.head.features == 13
    for settings_ in ({"on_drift": "panic"}, {"keep": 0}, {"inflation": -1.0}, {"head": 3}, {"scheme": "w8a8"}):
        with pytest.raises(FormatError, match="Adapt"):
            Adapt(callable_model, **settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", ["penultimate", "0"])
def test_taps_compile_in_int8_too(layer: str) -> None:
    model, x = network(), torch.randn(64, 6)
    fast = rt.compile(rt.online.tapped(model, layer), (x[:1],), scheme=rt.W8A8(), calibration=[x])
    y, features = fast(x[:1])
    want = model[:2](x[:1]) if layer == "penultimate" else x[:1]  # type: ignore[index]
    torch.testing.assert_close(features, want, atol=0.1, rtol=0.1)
    torch.testing.assert_close(y, model(x[:1]), atol=0.1, rtol=0.1)


class Sequence(nn.Module):
    """The newest output of a GRU, a head, a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.memory(x)[0][:, -1]))


def test_compiled_models_are_tapped_in_their_plan() -> None:
    torch.manual_seed(0)
    model, x = Sequence().eval(), torch.randn(3, 5, 4)
    fast = rt.compile(model, (x,))
    both = rt.online.tapped(fast)
    y, features = both(x)
    assert torch.equal(y, fast(x))
    torch.testing.assert_close(features, model.memory(x)[0][:, -1])
    other = network()
    plain = rt.compile(other, (torch.zeros(1, 6),))
    adapt = Adapt(plain, tap="penultimate")
    x = torch.randn(4, 6)
    assert torch.equal(adapt(x), plain(x))
    assert adapt.head is not None
    assert adapt.head.features == 13
    named = rt.online.tapped(plain, "2")
    scaled = {key: 2 * value if value.is_floating_point() else value for key, value in plain.state_dict().items()}
    named.load_state_dict(scaled)
    torch.testing.assert_close(named(x)[1], torch.relu(2 * other[0](x)))  # type: ignore[operator]
    for layer in ("0", "9"):  # its input is the model's, or there is none
        with pytest.raises(UnsupportedProblem, match="tap"):
            rt.online.tapped(plain, layer)


def test_a_head_is_folded_into_the_last_layer() -> None:
    model, rng = network(), np.random.default_rng(8)
    example = (torch.zeros(1, 6),)
    adapt = Adapt(model, example, head=RLSHead(13, 2, p0=10.0), commit=Better(0.05, halflife=20))
    for _ in range(100):
        x = torch.from_numpy(rng.normal(size=(1, 6)).astype(np.float32))
        adapt(x)
        adapt.learn(model(x) * 1.5 - 0.7)
    assert adapt.committed
    assert adapt.head is not None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = rt.online.folded(model, example, adapt.head)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    other = network(1)
    other.load_state_dict(state)
    x = torch.randn(9, 6)
    torch.testing.assert_close(other(x), adapt(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsupportedProblem, match="not the model's"):
        rt.online.folded(Sequence().eval(), (torch.zeros(1, 5, 4),), RLSHead(9, 1))
    with pytest.raises(ShapeError, match="folded"):
        rt.online.folded(model, example, RLSHead(14, 2))


class Learner(RuleBasedStateMachine):
    """Calls, labels and rollbacks in any order: what is served is the model's bits or the head's, and numbers are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.adapt, self.rng = learner(keep=4), np.random.default_rng(0)
        self.waiting: list[tuple[int, Any]] = []
        self.calls = 0

    @rule(rows=st.integers(1, 3))
    def call(self, rows: int) -> None:
        x = self.rng.normal(size=(rows, 3)).astype(np.float32)
        served, committed = self.adapt(x), self.adapt.committed
        model = callable_model(x)[0]
        if committed:
            phi = np.concatenate([x, np.ones((rows, 1), np.float32)], axis=1)
            model = model + self.adapt.head.predict_many(phi)  # type: ignore[union-attr]
        np.testing.assert_array_equal(served, model)
        self.waiting = [*self.waiting, (self.calls, x)][-4:]
        self.calls += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), good=st.booleans())
    def label(self, data: st.DataObject, good: bool) -> None:
        seq, x = data.draw(st.sampled_from(self.waiting))
        learned = self.adapt.head.learned  # type: ignore[union-attr]
        self.adapt.learn(3 * x.sum(1) if good else np.full(len(x), np.nan), seq=seq)
        assert self.adapt.head.learned == learned + (len(x) if good else 0)  # type: ignore[union-attr]
        self.waiting = [one for one in self.waiting if one[0] != seq]

    @rule(seq=st.integers(-1, 99))
    def unknown(self, seq: int) -> None:
        if seq not in [one[0] for one in self.waiting]:
            with pytest.raises(FormatError):
                self.adapt.learn([[1.0]], seq=seq)

    @rule()
    def roll_back(self) -> None:
        self.adapt.rollback()
        assert not self.adapt.committed

    @rule()
    def save_and_load(self) -> None:
        other = learner(keep=4)
        other.load_state_dict(self.adapt.state_dict())
        self.adapt = other

    @invariant()
    def counts(self) -> None:
        assert self.adapt.seq == self.calls - 1
        assert self.adapt.waiting == len(self.waiting)


TestLearner = Learner.TestCase
TestLearner.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


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
