"""FTRLHead against the update rule in plain Python, with hashed names, and with bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online import FTRLHead


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_equals_the_rule_in_float64(loss: str) -> None:
    rng = np.random.default_rng(0)
    alpha, beta, l1, l2, d = 0.3, 0.7, 0.2, 0.1, 50
    head = FTRLHead(d, alpha=alpha, beta=beta, l1=l1, l2=l2, loss=loss)
    z, n = np.zeros(d), np.zeros(d)

    def weight(i: int) -> float:
        if abs(z[i]) <= l1:
            return 0.0
        return float(-(z[i] - math.copysign(l1, z[i])) / ((beta + math.sqrt(n[i])) / alpha + l2))

    for _ in range(400):
        indices = rng.choice(d, size=rng.integers(0, 9))
        values = rng.normal(size=len(indices)).astype(np.float32)
        y = float(rng.integers(0, 2)) if loss == "logistic" else float(rng.normal())
        total = sum(weight(i) * float(v) for i, v in zip(indices, values, strict=True))
        said = 1 / (1 + math.exp(-total)) if loss == "logistic" else total
        assert abs(head.predict_one((indices, values)) - said) < 2e-5
        assert abs(head.learn_one((indices, values), y, weight=0.5) - (y - said)) < 2e-5
        for i, v in zip(indices, values, strict=True):
            g = 0.5 * (said - y) * float(v)
            z[i] += g - (math.sqrt(n[i] + g * g) - math.sqrt(n[i])) / alpha * weight(i)
            n[i] += g * g
    np.testing.assert_allclose(head.weights, [weight(i) for i in range(d)], atol=2e-5)
    assert head.nonzero == np.count_nonzero(head.weights)
    assert (head.learned, head.rejected) == (400, 0)


def test_l1_leaves_out_what_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    dense, sparse = FTRLHead(1000, l1=0.0, loss="squared"), FTRLHead(1000, l1=3.0, loss="squared")
    for _ in range(2000):
        indices = rng.choice(1000, 10, replace=False)
        y = float((indices < 20).sum()) + 0.1 * rng.normal()
        for head in (dense, sparse):
            head.learn_one((indices, np.ones(10)), y)
    assert dense.nonzero == 1000
    assert sparse.nonzero < 500
    assert sparse.weights[:20].mean() > 10 * np.abs(sparse.weights[20:]).mean()


def test_names_are_hashed_the_same_everywhere() -> None:
    head = FTRLHead(2**20)
    assert head.hash({"site": "a", "hour": 3, "süß": True}) == head.hash({"site": "a", "hour": 9.5, "süß": 1})
    assert head.hash({"site": "a"}) != head.hash({"site": "b"})
    assert head.hash({}) == []

    def fnv(text: str) -> int:
        state = 14695981039346656037
        for byte in text.encode():
            state = (state ^ byte) * 1099511628211 % 2**64
        return (state ^ state >> 32) % 2**20

    assert head.hash({"site": "a", "hour": 3, 7: 1}) == [fnv("site=a"), fnv("hour"), fnv("7")]  # type: ignore[dict-item]


def test_dicts_are_pairs() -> None:
    named, pairs = FTRLHead(2**16), FTRLHead(2**16)
    rng = np.random.default_rng(2)
    for _ in range(100):
        sample = {"site": str(rng.integers(5)), "hour": float(rng.normal())}
        y = int(rng.integers(2))
        assert named.learn_one(sample, y) == pairs.learn_one((named.hash(sample), [1.0, sample["hour"]]), y)
    np.testing.assert_array_equal(named.weights, pairs.weights)


def test_bad_samples_change_nothing() -> None:
    head = FTRLHead(10)
    head.learn_one(([1, 2], [1.0, -1.0]), 1)
    before = head.state_dict()
    bad = [(([10], [1.0]), 1), (([-1], [1.0]), 1), (([1], [np.nan]), 1), (([1], [np.inf]), 0), (([1], [1e12]), 0)]
    bad += [(([1], [1.0]), 0.5), (([1], [1.0]), np.nan)]
    for sample, y in bad:
        assert math.isnan(head.learn_one(sample, y))
    assert math.isnan(head.predict_one(([10], [1.0])))
    assert (head.learned, head.rejected) == (1, len(bad))
    for key in ("z", "n"):
        np.testing.assert_array_equal(head.state_dict()[key], before[key])
    for sample in ([1, 2, 3], ([1], [1.0, 2.0]), ([1.5], [1.0]), 3.0):
        with pytest.raises(ShapeError):
            head.learn_one(sample, 1)
    with pytest.raises(FormatError, match="numbers and texts"):
        head.learn_one({"a": [1]}, 1)


def test_huge_gradients_end_nowhere() -> None:
    head = FTRLHead(4, loss="squared", alpha=1e-3)
    for i in range(200):
        head.learn_one(([0, 1], [9e8, 1e-30]), 9e8 * (-1) ** i)
    state = head.state_dict()
    assert np.isfinite(state["z"]).all()
    assert np.isfinite(state["n"]).all()


def test_state_and_settings() -> None:
    rng = np.random.default_rng(3)
    head, other = FTRLHead(30), FTRLHead(30)
    for _ in range(50):
        head.learn_one((rng.integers(0, 30, 4), rng.normal(size=4)), 1)
    other.load_state_dict(head.state_dict())
    sample = ([3, 9], [0.5, 2.0])
    assert other.learn_one(sample, 0) == head.learn_one(sample, 0)
    assert other.learned == 51
    good = head.state_dict()
    for bad in (
        {**good, "n": -good["n"] - 1},
        {**good, "z": good["z"] * np.nan},
        FTRLHead(31).state_dict(),
        {"z": good["z"]},
    ):
        with pytest.raises(FormatError, match="FTRLHead"):
            head.load_state_dict(bad)
    for error, settings in [
        (ShapeError, {"dimensions": 0}), (FormatError, {"alpha": 0.0}), (FormatError, {"l1": -1.0}),
        (FormatError, {"loss": "hinge"}), (FormatError, {"beta": 0.0}), (FormatError, {"l2": np.nan}),
    ]:  # fmt: skip
        with pytest.raises(error, match="FTRLHead"):
            FTRLHead(**{"dimensions": 8, **settings})
