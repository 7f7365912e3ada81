"""The UD form in float64 and plain NumPy, a column at a time, and the stream that textbook least squares does not survive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Reference:
    """Bierman's update with forgetting and a bound on D; `noise` is what alpha starts from."""

    def __init__(self, features: int, outputs: int, p0: float, noise: float, forget: float, d_max: float) -> None:
        self.u, self.d = np.eye(features), np.full(features, float(p0))
        self.w = np.zeros((outputs, features))
        self.noise, self.forget, self.d_max = noise, forget, d_max

    def learn(self, phi: F64, y: F64) -> F64:
        f = self.u.T @ phi
        v, alpha, b = self.d * f, self.noise, np.zeros(len(phi))
        for j in range(len(phi)):
            after = alpha + f[j] * v[j]
            p = -f[j] / alpha
            self.d[j] = min(self.d[j] * alpha / (after * self.forget), self.d_max)
            column = self.u[:j, j].copy()
            self.u[:j, j] = column + b[:j] * p
            b[:j] += column * v[j]
            b[j] = v[j]
            alpha = after
        error = y - self.w @ phi
        self.w += np.outer(error, b) / alpha
        return error

    @property
    def p(self) -> F64:
        return (self.u * self.d) @ self.u.T


def correlated_stream(
    steps: int, features: int, noise: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """phi [steps, features] and y [steps, 1]: correlated ReLU features, a constant and one that is always 0; 2 % of the time
    everything stands still; an outlier in 20,000 samples. noise: the variance of y's noise."""
    rng = np.random.default_rng(seed)
    latent = np.cumsum(rng.normal(size=(steps, 6)), axis=0) * 0.05
    latent = 2 * np.sin(latent)  # bounded, and slow
    phi = np.maximum(latent @ rng.normal(size=(6, features)) + rng.normal(size=features), 0)
    phi += 0.1 * np.abs(rng.normal(size=phi.shape))
    phi[:, 0], phi[:, 1] = 1.0, 0.0
    length = max(steps // 100, 1)
    for start in (steps // 4, steps // 2):
        phi[start : start + length] = phi[start]
    y = phi @ rng.normal(size=features) + np.sqrt(noise) * rng.normal(size=steps)
    y[rng.random(steps) < 5e-5] += 30.0
    return phi.astype(np.float32), y.astype(np.float32)[:, None]
