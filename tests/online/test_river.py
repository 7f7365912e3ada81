"""The heads in river's pipelines and evaluation; features and targets by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online import FTRLHead, RLSHead


def test_in_a_pipeline() -> None:
    pytest.importorskip("river", reason="river is not here: pip install 'rtaccel[demo]'")
    from river import compose, evaluate, linear_model, metrics, preprocessing

    rng = np.random.default_rng(0)
    rows = []
    for a, b, c in rng.normal(size=(500, 3)):
        rows.append(({"a": a, "b": b, "c": c, "unused": 9.0}, float(2 * a - b + 3 * c)))
    model = compose.Select("a", "b", "c") | RLSHead(3, forget=1.0, p0=10.0)
    mae = evaluate.progressive_val_score(rows, model, metrics.MAE()).get()
    alone, errors = RLSHead(3, forget=1.0, p0=10.0), []
    for x, y in rows:
        errors.append(abs(float(alone.predict_one([x["a"], x["b"], x["c"]])[0]) - y))
        alone.learn_one([x["a"], x["b"], x["c"]], y)
    assert mae == pytest.approx(np.mean(errors), rel=1e-4)  # Select gives names in any order, and so columns
    linear = compose.Select("a", "b", "c") | linear_model.LinearRegression()
    assert mae < 0.1 * evaluate.progressive_val_score(rows, linear, metrics.MAE()).get()
    scaled = preprocessing.StandardScaler() | RLSHead(4)
    for x, y in rows:
        scaled.learn_one(x, y)
    assert isinstance(scaled.predict_one(rows[0][0]), float)


def test_sparse_head_in_a_pipeline() -> None:
    pytest.importorskip("river", reason="river is not here: pip install 'rtaccel[demo]'")
    from river import evaluate, metrics

    rows = [({"site": "abc"[i % 3], "hour": i % 24 / 24}, float(i % 3)) for i in range(600)]
    metric = evaluate.progressive_val_score(rows, FTRLHead(2**12, alpha=0.5, loss="squared"), metrics.MAE())
    assert metric.get() < 0.1


def test_names_take_columns() -> None:
    head = RLSHead(3, 1)
    head.learn_one({"a": 1.0, "b": 2.0}, 1.0)
    head.learn_one({"c": 3.0, "a": 1}, 2.0)
    array = RLSHead(3, 1)
    array.learn_one([1, 2, 0], 1.0)
    array.learn_one([1, 0, 3], 2.0)
    np.testing.assert_array_equal(head.weights, array.weights)
    assert head.predict_one({"c": 3.0, "unknown": 9.0}) == array.predict_one([0, 0, 3])[0]
    with pytest.raises(ShapeError, match="features"):
        head.learn_one({"d": 1.0}, 1.0)
    with pytest.raises(ShapeError, match="a number"):
        head.learn_one({"a": "red"}, 1.0)
    np.testing.assert_array_equal(head.weights, array.weights)
    other = RLSHead(3, 1)
    other.load_state_dict(head.state_dict())
    assert other.predict_one({"b": 1.0}) == head.predict_one({"b": 1.0})
    with pytest.raises(FormatError, match="features"):
        other.load_state_dict({**head.state_dict(), "names": np.frombuffer(b'["a","b","c","d"]', np.uint8)})


def test_targets_by_name() -> None:
    head = RLSHead(2, 2, forget=1.0, p0=10.0)
    rng = np.random.default_rng(1)
    error: Any = None
    for a, b in rng.normal(size=(50, 2)):
        error = head.learn_one({"a": a, "b": b}, {"sum": a + b, "difference": a - b})
    assert set(error) == {"sum", "difference"}
    said = head.predict_one({"a": 1.0, "b": 2.0})
    assert said["sum"] == pytest.approx(3, abs=0.01)
    assert said["difference"] == pytest.approx(-1, abs=0.01)
    head.learn_one({"a": 1.0, "b": 1.0}, {"sum": 2.0})  # one target is missing: the sample is not learned
    assert head.rejected == 1
