"""KalmanHead against the filter as textbooks write it, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online import KalmanHead, RLSHead


@pytest.mark.parametrize(("features", "every"), [(1, 1), (5, 1), (17, 3), (33, 1), (40, 7)])
def test_equals_the_covariance_form_in_float64(features: int, every: int) -> None:
    rng = np.random.default_rng(features)
    q, r, p0 = rng.uniform(0, 1e-2, features), 0.3, 2.0
    q[0] = 0.0
    head = KalmanHead(features, 2, process_noise=q, noise=r, p0=p0, every=every)
    p, w = p0 * np.eye(features), np.zeros((2, features))
    for step in range(1, 150):
        phi, y = rng.normal(size=features).astype(np.float32), rng.normal(size=2).astype(np.float32)
        if step % every == 0:
            p = p + every * np.diag(q.astype(np.float32).astype(float))
        alpha = r + phi @ p @ phi
        k = p @ phi / alpha
        wanted = y - w @ phi
        w = w + np.outer(wanted, k)
        p = p - np.outer(k, p @ phi)
        p = (p + p.T) / 2
        np.testing.assert_allclose(head.learn_one(phi, y), wanted, atol=1e-4)
    np.testing.assert_allclose(head.weights, w, atol=5e-5)
    probe = rng.normal(size=features)
    np.testing.assert_allclose(head.variance_one(probe), probe @ p @ probe, rtol=1e-4)


def test_without_process_noise_it_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(80, 9)), rng.normal(size=(80, 1))
    kalman, rls = KalmanHead(9, process_noise=0.0, noise=1.0, p0=0.5), RLSHead(9, forget=1.0, p0=0.5)
    np.testing.assert_array_equal(kalman.learn_many(phi, y), rls.learn_many(phi, y))


def test_follows_weights_that_walk() -> None:
    """Its error is that of the noise and the walk, as the filter's own variance says."""
    rng = np.random.default_rng(1)
    steps, n, q, r = 20000, 6, 1e-4, 0.04
    w = np.cumsum(np.sqrt(q) * rng.normal(size=(steps, n)), axis=0)
    phi = rng.normal(size=(steps, n))
    y = (w * phi).sum(1) + np.sqrt(r) * rng.normal(size=steps)
    head = KalmanHead(n, process_noise=q, noise=r)
    error = head.learn_many(phi, y[:, None])[2000:, 0].astype(float)
    predicted = r + np.mean([head.variance_one(x) + q * (x @ x) for x in phi[-500:]])
    assert abs((error**2).mean() / predicted - 1) < 0.1


def test_rejected_samples_change_nothing() -> None:
    head = KalmanHead(3, process_noise=1e-2)
    head.learn_one(np.ones(3), 1.0)
    before = head.state_dict()
    head.learn_one([np.nan, 1, 1], 1.0)
    head.learn_one(np.ones(3), np.inf)
    after = head.state_dict()
    assert head.rejected == 2
    for key in ("U", "D", "w"):
        np.testing.assert_array_equal(after[key], before[key])


def test_settings() -> None:
    for error, settings in [
        (FormatError, {"process_noise": -1.0}), (FormatError, {"process_noise": np.nan}), (ShapeError, {"process_noise": [1.0]}),
        (FormatError, {"noise": 0.0}), (FormatError, {"every": 0}), (FormatError, {"p0": np.inf}),
    ]:  # fmt: skip
        with pytest.raises(error, match="KalmanHead"):
            KalmanHead(4, **settings)
