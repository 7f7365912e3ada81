"""Bank against each feature written out in float64, with gaps, for drawn expressions, streams and channels."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online import Bank
from rtaccel.online.features import (
    Count,
    Ewma,
    Feature,
    First,
    Lag,
    LogCount,
    Max,
    Mean,
    Min,
    Minus,
    SeasonMean,
    Slope,
    Value,
)
from tests.support import turbofan


class Plain:
    """One feature of one channel, from all that came."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        parts = (
            [feature.left, feature.right] if isinstance(feature, Minus) else [getattr(feature, "of", None) or Value()]
        )
        self.parts = [] if isinstance(feature, Value) else [Plain(part) for part in parts]
        self.past: list[float] = []
        self.steps: list[int] = []

    def step(self, x: float, step: int) -> float:
        given = [part.step(x, step) for part in self.parts]
        if isinstance(self.feature, Value):
            return x
        if isinstance(self.feature, Minus):
            return given[0] - given[1]
        self.past.append(given[0])
        self.steps.append(step)
        return self.of(self.feature, np.array(self.past))

    def of(self, feature: Any, past: np.ndarray[Any, Any]) -> float:
        n = len(past)
        if isinstance(feature, Ewma):
            return ewma(past, feature.rate)
        if isinstance(feature, (Min, Max, Mean)):
            return float({Min: np.min, Max: np.max, Mean: np.mean}[type(feature)](past))
        if isinstance(feature, First):
            return float(past[: feature.count].mean())
        if isinstance(feature, Lag):
            return float(past[max(n - 1 - feature.steps, 0)])
        if isinstance(feature, SeasonMean):
            phase = np.array(self.steps) % feature.period == self.steps[-1] % feature.period
            return ewma(past[phase], feature.rate)
        assert isinstance(feature, Slope)
        if n == 1:
            return 0.0
        weights = (1 - feature.rate) ** np.arange(n - 1, -1, -1.0)
        t = np.arange(n) - np.average(np.arange(n), weights=weights)
        return float((weights * t * (past - np.average(past, weights=weights))).sum() / (weights * t * t).sum())


def ewma(past: np.ndarray[Any, Any], rate: float) -> float:
    m = 0.0
    for t, x in enumerate(past):
        m += max(rate, 1 / (t + 1)) * (x - m)
    return m


rates = st.sampled_from([0.02, 0.1, 0.5, 0.9])
leaves = st.just(Value())
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Ewma, rates, inner),
        st.builds(Min, inner),
        st.builds(Max, inner),
        st.builds(Mean, inner),
        st.builds(First, st.integers(1, 9), inner),
        st.builds(Lag, st.integers(1, 9), inner),
        st.builds(Slope, rates, inner),
        st.builds(SeasonMean, st.integers(1, 6), rates, inner),
        st.builds(Minus, inner, inner),
    ),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None)
@given(
    features=st.lists(expressions, min_size=1, max_size=4),
    streams=st.integers(1, 7),
    channels=st.integers(1, 9),
    gaps=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_equals_float64(features: list[Feature], streams: int, channels: int, gaps: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(25, streams, channels)).astype(np.float32)
    x[rng.random(x.shape) < gaps] = rng.choice([np.nan, np.inf, 1e30])
    bank = Bank(channels, [*features, Count(), LogCount(0.5)], streams=streams)
    y = bank.run(x)
    assert y.shape == (25, streams, len(features) * channels + 2) == (25, streams, len(bank.names))
    for s in range(streams):
        for c in range(channels):
            plain = [Plain(feature) for feature in features]
            wanted = [np.nan] * len(features)
            for t in range(25):
                if abs(x[t, s, c]) < 1e18:
                    wanted = [one.step(float(x[t, s, c]), t) for one in plain]
                got = y[t, s, c : len(features) * channels : channels]
                # A slope of few samples with a short memory divides by a small spread: some 100 roundings.
                np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-3)
    np.testing.assert_array_equal(y[:, :, -2], np.repeat(np.arange(1, 26.0)[:, None], streams, 1))
    np.testing.assert_allclose(y[:, :, -1], 0.5 * np.log1p(y[:, :, -2]), rtol=1e-6)


@pytest.mark.parametrize("level", [1.0, 1e3, 1e6])
def test_long_runs_do_not_stand_still(level: float) -> None:
    """A mean of very many samples goes on by less than the last place of a float32."""
    rng = np.random.default_rng(int(level))
    n, rates = 150_000, (1e-5, 1e-6, 1e-4)
    x = (level * (1 + 1e-3 * rng.uniform(-1, 1, n)) + np.where(np.arange(n) < n // 2, 0, 3e-4 * level)).astype(
        np.float32
    )
    features = [Mean(), Ewma(rates[0]), SeasonMean(2, rates[1]), First(65_536), Ewma(rates[2], of=Mean()), Slope(1e-5)]
    got = Bank(1, features).run(x[:, None])[-1, 0]
    x = x.astype(np.float64)
    mean = np.cumsum(x) / np.arange(1, n + 1)
    wanted = [mean[-1], ewma(x, rates[0]), ewma(x[(n - 1) % 2 :: 2], rates[1]), x[:65_536].mean(), ewma(mean, rates[2])]
    np.testing.assert_allclose(got[:5], wanted, rtol=3e-7)
    weights = (1 - 1e-5) ** np.arange(n - 1, -1, -1.0)
    t = np.arange(n) - np.average(np.arange(n), weights=weights)
    slope = (weights * t * (x - np.average(x, weights=weights))).sum() / (weights * t * t).sum()
    np.testing.assert_allclose(got[5], slope, rtol=1e-2)


def test_turbofan_features() -> None:
    """86 of 14 sensors; float32 around values of 9,000 is good to 3e-7 of them."""
    engine = turbofan.engines()[0]
    y = turbofan.features(engine)
    assert y.shape[1] == 86
    for column, sensor in enumerate(engine.T.astype(float)):
        levels = {rate: [ewma(sensor[: t + 1], rate) for t in range(len(sensor))] for rate in (0.2, 0.1, 0.05, 0.02)}
        means = np.cumsum(sensor) / np.arange(1, len(sensor) + 1)
        first = np.where(np.arange(len(sensor)) < 10, means, sensor[:10].mean())
        wanted = [
            levels[0.2],
            levels[0.1],
            levels[0.05],
            np.subtract(levels[0.1], levels[0.02]),
            levels[0.05] - first,
            means,
        ]
        got = y[:, column : 6 * 14 : 14]
        np.testing.assert_allclose(got, np.array(wanted).T, atol=1e-6 * np.abs(sensor).max())


def test_step_run_bind_and_reset() -> None:
    rng = np.random.default_rng(0)
    bank, bound, part = (Bank(["a", "b", "c"], [Ewma(0.1), Value() - Lag(2)], streams=4) for _ in range(3))
    x = rng.normal(size=(30, 4, 3)).astype(np.float32)
    y = bank.run(x)
    buffer, out = np.empty((4, 3), np.float32), np.empty((4, 6), np.float32)
    step = bound.bind(buffer, out)
    for now, wanted in zip(x, y, strict=True):
        buffer[:] = now
        step()
        np.testing.assert_array_equal(out, wanted)
    assert bank.names == ["a_ewma0.1", "b_ewma0.1", "c_ewma0.1", "a_value-lag2", "b_value-lag2", "c_value-lag2"]
    part.run(x[:10])
    part.reset([1, 3])
    again = part.run(x[:10])
    np.testing.assert_array_equal(again[:, [1, 3]], y[:10, [1, 3]])
    assert (again[:, [0, 2]] != y[:10, [0, 2]]).any()
    with pytest.raises(ShapeError, match="stream=4"):
        part.reset([4])


def test_state_goes_on() -> None:
    rng = np.random.default_rng(1)
    features = [Slope(0.1), SeasonMean(4), Lag(5), Max(of=Ewma(0.2))]
    bank, other = Bank(5, features, streams=3), Bank(5, features, streams=3)
    bank.run(rng.normal(size=(20, 3, 5)))
    other.load_state_dict(bank.state_dict())
    x = rng.normal(size=(20, 3, 5))
    np.testing.assert_array_equal(bank.run(x), other.run(x))
    good = other.state_dict()
    for bad in (
        Bank(5, features[:3], streams=3).state_dict(),
        Bank(5, features, streams=2).state_dict(),
        {**good, "floats": good["floats"][:-1]},
        {**good, "integers": good["integers"].astype(np.int64)},
        {"floats": good["floats"]},
    ):
        with pytest.raises(FormatError, match="Bank"):
            other.load_state_dict(bad)
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(value, good[key])


def test_errors() -> None:
    for error, arguments in [
        (ShapeError, (0, [Mean()])), (ShapeError, (["a", "a"], [Mean()])), (ShapeError, (2, [Mean()], 0)),
        (FormatError, (2, [])), (FormatError, (2, ["ewma"])), (FormatError, (2, [Count(np.inf)])),
        (UnsupportedProblem, (2, [Lag(i) for i in range(1, 200)])), (ShapeError, (2.5, [Mean()])), (ShapeError, (True, [Mean()])),
        (FormatError, (2, None)), (FormatError, (2, [Ewma(0.1, of="x")])), (FormatError, (2, [Value() - Count()])),
        (FormatError, (2, [Count("a")])), (ShapeError, (2, [Mean()], 2**70)),
    ]:  # fmt: skip
        with pytest.raises(error, match="Bank"):
            Bank(*arguments)  # type: ignore[arg-type]
    for build in (lambda: Ewma(0.0), lambda: Ewma(1.5), lambda: Slope(1.0), lambda: Lag(0), lambda: First(10**6)):
        with pytest.raises(FormatError, match="Bank"):
            build()
    bank = Bank(3, [Mean()], streams=2)
    for x in (np.ones(3), np.ones((3, 2)), [["a"] * 3] * 2):
        with pytest.raises(ShapeError):
            bank.step(x)
    with pytest.raises(ShapeError):
        bank.bind(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32))
    for streams in (0, "a", [0.0], [2], [-1]):
        with pytest.raises(ShapeError, match="Bank"):
            bank.reset(streams)  # type: ignore[arg-type]
    state = bank.state_dict()
    for wrong in (
        None,
        {},
        {**state, "definition": "x"},
        {**state, "definition": [-1]},
        {**state, "floats": [[1], [2, 3]]},
    ):
        with pytest.raises(FormatError, match="Bank"):
            bank.load_state_dict(wrong)  # type: ignore[arg-type]


def test_copies_go_on() -> None:
    bank = Bank(["a", "b"], [Ewma(0.1) - Lag(2), SeasonMean(3), Count()], streams=np.int64(2))  # type: ignore[arg-type]
    x = np.random.default_rng(3).normal(size=(20, 2, 2))
    bank.run(x[:10])
    others = [copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))]
    wanted = bank.run(x[10:])
    for other in others:
        assert other.names == bank.names
        np.testing.assert_array_equal(other.run(x[10:]), wanted)
