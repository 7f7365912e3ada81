"""Records against the same rules in plain Python, with all records kept; and on the Numenta benchmark."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online import Records
from tests.support import nab


class Plain:
    """One stream: every rule as the docstring says it, with lists of all that was."""

    def __init__(self, range: float = 0.005, season: float = 800, jump: float = 8000) -> None:
        self.thresholds = range, season, jump
        self.values: list[float] = []
        self.level, self.means, self.seen = 0.0, [0.0] * 96, [0] * 96
        self.deviations: list[float] = []
        self.ages: list[float] = []
        self.last, self.low, self.high = math.nan, 0.0, 0.0
        self.jumps: list[float] = []
        self.jump_rows: list[int] = []

    def score(self, value: float, seconds: float) -> float:
        now = len(self.values)
        past = self.values or [value]
        low, high = min(past), max(past)
        by = max(value - high, low - value, 0.0)
        range_ = by / max(high - low, 1e-300)
        self.values.append(value)
        self.level += 0.05 * (value - self.level)
        season = self._season(seconds)
        self.low *= 1 - 1e-4
        self.high *= 1 - 1e-4
        jump = 0
        if not math.isnan(self.last):
            d = value - self.last
            size = np.float32(abs(d))
            since = next(
                (now - at for j, at in zip(self.jumps[::-1], self.jump_rows[::-1], strict=True) if j >= size), now + 1
            )
            self.jumps.append(size)
            self.jump_rows.append(now)
            if d < self.low or d > self.high:
                jump = since
            self.low, self.high = min(self.low, d), max(self.high, d)
        self.last = value
        if now < 40:
            return 0.0
        return max(part / threshold for part, threshold in zip((range_, season, jump), self.thresholds, strict=True))

    def _season(self, seconds: float) -> int:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
        slot = moment.hour * 2 + moment.minute // 30 + (48 if moment.weekday() >= 5 else 0)
        deviation = self.level - self.means[slot] if self.seen[slot] else 0.0
        self.seen[slot] += 1
        rate = max(1 / self.seen[slot], 0.1)
        self.means[slot] = float(np.float32(self.means[slot] + rate * (self.level - self.means[slot])))
        past, size = self.deviations, np.float32(abs(deviation))
        now = len(past)
        beyond = deviation < min([0.0, *past[100:]]) or deviation > max([0.0, *past[100:]])
        since = next((now - i for i in range(now - 1, 99, -1) if np.float32(abs(past[i])) >= size), now + 1)
        past.append(deviation)
        return since if now >= 100 and beyond else 0


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 1200
    times = 1.4e9 + np.cumsum(rng.choice([300.0, 600.0, 3600.0], n))
    values = rng.normal(size=n) + 3 * np.sin(times / 86400 * 2 * np.pi) + 10 * seed
    values[rng.integers(0, n, 6)] += 15
    if seed == 3:
        values = np.round(values)  # values that come again
    thresholds = (0.01, 30.0, 50.0)
    plain, det = Plain(*thresholds), Records(*thresholds)
    wanted = [plain.score(v, t) for v, t in zip(values, times, strict=True)]
    np.testing.assert_allclose(det.score_series(values, times), wanted, rtol=1e-12)
    assert sum(w >= 1 for w in wanted) > 3


def test_full_stacks_answer_too_small_never_too_large() -> None:
    """Falling differences fill a stack; what comes after is blocked by the last record."""
    det, plain = Records(jump=1.0, range=1e9), Plain(jump=1.0, range=1e9)
    values = np.cumsum([(-1) ** i * (2.0 - 0.01 * i) for i in range(150)])
    values = np.concatenate([values, values[-1] + np.cumsum([3.0, -0.6, 0.7, 0.65])])
    got = det.score_series(values, None)
    wanted = [plain.score(v, 0.0) for v in values]
    assert (got <= np.array(wanted) + 1e-12).all()
    assert got[150] == wanted[150] > 100


def test_one_many_and_series_agree() -> None:
    rng = np.random.default_rng(0)
    values, times = rng.normal(size=(300, 5)), 1e9 + 1800.0 * np.arange(300)
    many = Records(streams=5)
    together = np.array([many.score_many(v, t) for v, t in zip(values, times, strict=True)])
    for stream in range(5):
        series = Records().score_series(values[:, stream], times)
        np.testing.assert_array_equal(together[:, stream], series)
    one = Records()
    np.testing.assert_array_equal(
        [one.score_one(v, t) for v, t in zip(values[:, 0], times, strict=True)], together[:, 0]
    )


def test_times_of_every_kind() -> None:
    stamps = [datetime.datetime(2024, 3, 1, 0, 15) + datetime.timedelta(minutes=20 * i) for i in range(400)]
    values = np.random.default_rng(1).normal(size=400)
    results = []
    for times in (
        stamps,
        [np.datetime64(s) for s in stamps],
        [(s - datetime.datetime(1970, 1, 1)).total_seconds() for s in stamps],
        [s.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=5))) for s in stamps],
    ):
        det = Records(season=50)
        results.append([det.score_one(v, t) for v, t in zip(values, times, strict=True)])
    for result in results[1:]:
        assert result == results[0]
    series = Records(season=50).score_series(values, np.array(stamps, dtype="datetime64[s]"))
    np.testing.assert_array_equal(series, results[0])
    without = Records(season=50)
    assert [without.score_one(v) for v in values] != results[0]


def test_missing_values_and_gaps() -> None:
    det = Records()
    values = list(np.random.default_rng(2).normal(size=100))
    for value in values:
        det.score_one(value)
    before = det.state_dict()["state"].copy()
    for missing in (math.nan, math.inf, -math.inf):
        assert math.isnan(det.score_one(missing, 1e9))
    assert det.missing() == 3
    assert before.shape == det.state_dict()["state"].shape
    # What the range knows is as it was, and no difference is taken across the gap: only the range can tell.
    strict = Records(range=1e9, jump=1.0)
    for value in [*values, math.nan]:
        strict.score_one(value)
    assert strict.score_one(1e6) < 1
    assert strict.score_one(-1e6) >= 1


def test_state_goes_on() -> None:
    rng = np.random.default_rng(3)
    values, times = rng.normal(size=(400, 3)), 1e9 + 600.0 * np.arange(400)
    det, other = Records(streams=3), Records(streams=3)
    for v, t in zip(values[:200], times, strict=False):
        det.score_many(v, t)
    other.load_state_dict(det.state_dict())
    for v, t in zip(values[200:], times[200:], strict=True):
        np.testing.assert_array_equal(det.score_many(v, t), other.score_many(v, t))
    state = det.state_dict()
    damaged = state["state"].copy()
    damaged[:] = 255
    for bad in (
        {**state, "state": damaged},
        {**state, "state": damaged[:-1]},
        {"state": damaged},
        Records().state_dict(),
    ):
        with pytest.raises(FormatError, match="Records"):
            other.load_state_dict(bad)
    assert det.state_bytes / 3 <= 2048
    det.reset()
    np.testing.assert_array_equal(det.state_dict()["state"], Records(streams=3).state_dict()["state"])


def test_errors() -> None:
    for settings in ({"range": 0.0}, {"season": math.nan}, {"jump": -1.0}):
        with pytest.raises(FormatError, match="Records"):
            Records(**settings)
    with pytest.raises(ShapeError):
        Records(streams=0)
    det = Records(streams=2)
    with pytest.raises(ShapeError):
        det.score_many([1.0])
    with pytest.raises(ShapeError):
        det.score_one("a")  # type: ignore[arg-type]
    with pytest.raises(FormatError):
        det.score_one(1.0, "yesterday")
    with pytest.raises(ShapeError):
        det.score_series([1.0, 2.0], [1.0])
    with pytest.raises(ShapeError):
        det.missing(2)


def test_numenta_benchmark() -> None:
    """The seven series of the test data, with the settings of the whole corpus (68.0 there)."""
    scores, windows = [], 0
    for one in nab.series():
        alerts = np.nonzero(Records().score_series(one.values, one.seconds) >= 1)[0]
        scores.append(nab.file_score(alerts.tolist(), one.windows, len(one.values)))
        windows += len(one.windows)
    assert nab.standard_score(scores, windows) >= 67.5
