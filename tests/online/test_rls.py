"""RLSHead against the UD form in float64, on streams that break the textbook's form, and with bad input."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online import RLSHead
from tests.support.ud_reference import Reference, correlated_stream


@pytest.mark.parametrize(
    ("features", "outputs"), [(1, 1), (5, 3), (15, 2), (16, 1), (17, 12), (48, 1), (65, 2), (130, 4)]
)
def test_equals_float64(features: int, outputs: int) -> None:
    rng = np.random.default_rng(features)
    head, forget = RLSHead(features, outputs, forget=0.99), 0.99
    reference = Reference(features, outputs, 0.1, forget, forget, 100.0)
    true = rng.normal(size=(outputs, features))
    for _ in range(200):
        phi = rng.normal(size=features).astype(np.float32)
        y = (true @ phi + 0.1 * rng.normal(size=outputs)).astype(np.float32)
        said = head.predict_one(phi)
        error = head.learn_one(phi, y)
        wanted = reference.learn(phi.astype(float), y.astype(float))
        np.testing.assert_allclose(error, wanted, atol=2e-5 * np.abs(phi).sum())
        np.testing.assert_array_equal(error, y - said)
    np.testing.assert_allclose(head.weights, reference.w, atol=1e-5)
    state = head.state_dict()
    np.testing.assert_allclose(state["U"], reference.u, atol=1e-5)
    np.testing.assert_allclose(state["D"], reference.d, rtol=2e-5)
    probe = rng.normal(size=features)
    np.testing.assert_allclose(head.variance_one(probe), probe @ reference.p @ probe, rtol=1e-4)
    assert (head.learned, head.rejected) == (200, 0)


def test_is_least_squares() -> None:
    """Without forgetting and with a wide prior it gives the normal equations' solution."""
    rng = np.random.default_rng(0)
    phi, head = rng.normal(size=(300, 7)).astype(np.float32), RLSHead(7, 2, forget=1.0, p0=100.0)
    y = (phi @ rng.normal(size=(7, 2)) + 0.1 * rng.normal(size=(300, 2))).astype(np.float32)
    head.learn_many(phi, y)
    p0 = 1 / 100.0
    wanted = np.linalg.solve(phi.T.astype(float) @ phi + p0 * np.eye(7), phi.T.astype(float) @ y).T
    np.testing.assert_allclose(head.weights, wanted, atol=2e-5)


@pytest.mark.parametrize("features", [16, 64])
def test_stays_at_the_noise_floor(features: int) -> None:
    """Standing still, outliers, a constant and a zero feature; the median window is at the noise within what forgetting costs
    (features / 2000 for lambda 0.999) and 2 %."""
    steps, noise = 300_000 if features == 16 else 100_000, 0.01
    phi, y = correlated_stream(steps, features, noise, seed=features)
    head = RLSHead(features, 1, forget=0.999)
    errors = head.learn_many(phi, y).astype(float)[:, 0]
    assert np.isfinite(errors).all()
    windows = (errors[steps // 10 :] ** 2).reshape(-1, steps // 100).mean(axis=1)
    assert np.median(windows) <= noise * (1.02 + features / 2000)
    assert np.median(windows[-30:]) <= noise * (1.06 + features / 2000)  # fewer windows: 2 % is their own noise
    state = head.state_dict()
    assert np.isfinite(state["U"]).all()
    assert (state["D"] >= 0).all()
    assert (state["D"] <= 100).all()
    assert state["D"].max() == 100  # the zero feature's, and it stands there


def test_float64_is_no_better_on_that_stream() -> None:
    phi, y = correlated_stream(8000, 16, 0.01, seed=3)
    head, reference = RLSHead(16, 1, forget=0.999), Reference(16, 1, 0.1, 0.999, 0.999, 100.0)
    got = head.learn_many(phi, y)[:, 0].astype(float)
    wanted = np.array([reference.learn(a, b)[0] for a, b in zip(phi.astype(float), y.astype(float), strict=True)])
    np.testing.assert_allclose(got, wanted, atol=5e-3)
    assert abs((got[1000:] ** 2).mean() / (wanted[1000:] ** 2).mean() - 1) < 2e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_numbers_change_nothing(bad: float) -> None:
    rng = np.random.default_rng(1)
    head = RLSHead(20, 2)
    head.learn_many(rng.normal(size=(50, 20)), rng.normal(size=(50, 2)))
    before = head.state_dict()
    phi, y = np.ones(20, np.float32), np.ones(2, np.float32)
    for where in range(3):
        x, wanted = phi.copy(), y.copy()
        if where == 2:
            wanted[1] = bad
        else:
            x[where * 19] = bad
        head.learn_one(x, wanted)
        assert head.rejected == where + 1
    after = head.state_dict()
    for key in ("U", "D", "w"):
        np.testing.assert_array_equal(after[key], before[key])
    assert head.learned == 50
    assert np.isnan(head.predict_one(np.full(20, np.nan))).all()
    assert np.isnan(head.variance_one(np.full(20, np.nan)))


def test_large_and_tiny_numbers_never_end_in_nan() -> None:
    rng = np.random.default_rng(2)
    for scale in (1e-30, 1e-10, 1e6, 1e12, 9e17):
        head = RLSHead(33, 2, forget=0.99)
        for _ in range(300):
            phi = (rng.normal(size=33) * scale * 10 ** rng.uniform(-6, 0)).astype(np.float32)
            head.learn_one(phi, rng.normal(size=2) * 10 ** rng.uniform(-6, 6))
        state = head.state_dict()
        assert all(np.isfinite(state[key]).all() for key in ("U", "D", "w")), scale
        assert head.learned + head.rejected == 300


def test_zero_features_teach_nothing() -> None:
    head = RLSHead(4, 1, forget=1.0)
    before = head.state_dict()
    for _ in range(10):
        assert head.learn_one(np.zeros(4), 3.0) == 3.0
    after = head.state_dict()
    np.testing.assert_array_equal(after["w"], before["w"])
    np.testing.assert_array_equal(after["D"], before["D"])
    assert head.learned == 10


def test_inflate() -> None:
    head = RLSHead(3, 1, p0=0.5, d_max=2.0)
    head.inflate(3.0)
    np.testing.assert_array_equal(head.state_dict()["D"], [1.5, 1.5, 1.5])
    head.inflate(3.0)
    np.testing.assert_array_equal(head.state_dict()["D"], [2, 2, 2])
    for bad in (0.0, -1.0, np.nan, np.inf, "2"):
        with pytest.raises(FormatError, match="factor"):
            head.inflate(bad)  # type: ignore[arg-type]


def test_many_is_one_after_the_other() -> None:
    rng = np.random.default_rng(4)
    phi, y = rng.normal(size=(40, 19)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)
    one, many, bound = RLSHead(19, 3), RLSHead(19, 3), RLSHead(19, 3)
    x, wanted, out = np.empty(19, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    step = bound.bind(x, wanted, out=out)
    errors = []
    for a, b in zip(phi, y, strict=True):
        errors.append(one.learn_one(a, b))
        x[:], wanted[:] = a, b
        step()
        np.testing.assert_array_equal(wanted - out, errors[-1])
    np.testing.assert_array_equal(many.learn_many(phi, y), errors)
    for key, value in one.state_dict().items():
        np.testing.assert_array_equal(many.state_dict()[key], value)
        np.testing.assert_array_equal(bound.state_dict()[key], value)
    np.testing.assert_array_equal(many.predict_many(phi), [one.predict_one(a) for a in phi])


def test_bound_without_labels_predicts() -> None:
    head, phi, out = RLSHead(3, 1), np.ones(3, np.float32), np.empty(1, np.float32)
    head.learn_one(phi, 1.0)
    predict = head.bind(phi, out=out)
    predict()
    assert out == head.predict_one(phi)
    label = np.array([np.nan], np.float32)
    head.bind(phi, label, out=out)()  # a label that is not there is a prediction
    assert out == head.predict_one(phi)
    assert (head.learned, head.rejected) == (1, 1)


def test_tensors_and_lists() -> None:
    rows: Any = [[1.0, 2.0], torch.tensor([1.0, 2.0], requires_grad=True), np.array([1.0, 2.0]), np.array([1, 2])]
    results = []
    for row in rows:
        head = RLSHead(2, 1)
        head.learn_one(row, torch.tensor([1.0]))
        results.append(head.weights)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    head, phi, out = RLSHead(2, 1), torch.ones(2), torch.empty(1)
    head.learn_one(phi, 2.0)
    head.bind(phi, out=out)()
    assert float(out) == head.predict_one(phi)[0]


def test_state_goes_on_with_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    head = RLSHead(37, 2)
    head.learn_many(rng.normal(size=(100, 37)), rng.normal(size=(100, 2)))
    other = RLSHead(37, 2)
    other.load_state_dict(head.state_dict())
    copies = [other, copy.deepcopy(head), pickle.loads(pickle.dumps(head))]
    phi, y = rng.normal(size=(30, 37)), rng.normal(size=(30, 2))
    errors = head.learn_many(phi, y)
    for one in copies:
        np.testing.assert_array_equal(one.learn_many(phi, y), errors)
        assert one.learned == 130


def test_states_that_do_not_fit() -> None:
    head = RLSHead(4, 1)
    head.learn_one(np.arange(4.0), 1.0)
    good = head.state_dict()
    bad = [
        {**good, "D": np.full(4, np.nan, np.float32)},
        {**good, "D": np.full(4, -1, np.float32)},
        {**good, "D": np.full(4, 101, np.float32)},
        {**good, "U": good["U"].T.copy()},
        {**good, "U": 2 * good["U"]},
        {**good, "w": np.full((1, 4), np.inf, np.float32)},
        {**good, "w": good["w"].astype(np.float64)},
        {**good, "counts": np.array([-1, 0, 0])},
        {**good, "names": np.frombuffer(b'["a", "a"]', np.uint8)},
        {**good, "names": np.frombuffer(b"nonsense", np.uint8)},
        {key: value for key, value in good.items() if key != "D"},
        {**good, "more": good["w"]},
        RLSHead(5, 1).state_dict(),
    ]
    for state in bad:
        with pytest.raises(FormatError, match="RLSHead"):
            head.load_state_dict(state)
        for key, value in head.state_dict().items():
            np.testing.assert_array_equal(value, good[key])


def test_settings_and_shapes() -> None:
    for error, settings in [
        (ShapeError, {"features": 0}), (ShapeError, {"features": 5000}), (ShapeError, {"features": 2.5}),
        (ShapeError, {"outputs": 0}), (FormatError, {"forget": 0.0}), (FormatError, {"forget": 1.1}),
        (FormatError, {"p0": -1.0}), (FormatError, {"p0": 1e3}), (FormatError, {"d_max": np.inf}), (FormatError, {"p0": "1"}),
    ]:  # fmt: skip
        with pytest.raises(error, match="RLSHead"):
            RLSHead(**{"features": 4, "outputs": 1, **settings})
    head = RLSHead(4, 2)
    for phi, y in [(np.ones(3), np.ones(2)), (np.ones((1, 4)), np.ones(2)), (np.ones(4), 1.0), (["a"] * 4, np.ones(2))]:
        with pytest.raises(ShapeError, match="RLSHead"):
            head.learn_one(phi, y)
    assert head.learned == 0
    phi, y, out = np.ones(4, np.float32), np.ones(2, np.float32), np.empty(2, np.float32)
    read_only = np.empty(2, np.float32)
    read_only.flags.writeable = False
    for arguments in [
        (phi.astype(float), y, out), (np.ones(8, np.float32)[::2], y, out), (phi, y, read_only), (phi, y, y),
        (phi, np.ones(3, np.float32), out), (phi, y, phi[:2]),
    ]:  # fmt: skip
        with pytest.raises(ShapeError):
            head.bind(arguments[0], arguments[1], out=arguments[2])


@pytest.mark.parametrize("features", [1, 2, 19, 70])
@pytest.mark.parametrize("p0", [1e-3, 1.0])
def test_a_small_variance_keeps_its_digits(features: int, p0: float) -> None:
    """Against phi' P phi in float64: nothing is taken from a larger number, be it ever so small beside the noise."""
    rng = np.random.default_rng(features)
    head, information = RLSHead(features, forget=1.0, p0=p0), np.eye(features) / p0
    for count in (0, 1, 40, 4000):
        for _ in range(count):
            phi = rng.normal(size=features).astype(np.float32)
            head.learn_one(phi, np.zeros(1, np.float32))
            information += np.outer(phi.astype(float), phi.astype(float))
        for size in (1.0, 1e-2, 1e-6):
            probe = (rng.normal(size=features) * size).astype(np.float32)
            exact = probe.astype(float) @ np.linalg.solve(information, probe.astype(float))
            np.testing.assert_allclose(head.variance_one(probe), exact, rtol=2e-3)
