"""Recursive least squares in UD form."""

from __future__ import annotations

from typing import Any

from rtaccel.online.ud_head import UdHead


class RLSHead(UdHead):
    """Recursive least squares with forgetting, for all outputs at once.

        minimizes  sum over t of forget^(T - t) |y_t - w phi_t|^2 + forget^T |w|^2 / p0

    features: the size of phi, up to 4096.
    outputs: the size of y.
    forget: the weight of a sample falls by this factor with each later one; 0.9999 remembers some 10,000 samples.
    p0: the variance of w before anything is learned, over the noise's; small ones learn carefully.
    d_max: bound on D, which keeps P from growing without end while nothing new comes.

    P is kept as U D U' in float32 (Bierman, Factorization Methods for Discrete Sequential Estimation, 1977). It stays symmetric
    and positive by construction; the covariance form of textbooks diverges within 1e5 updates of correlated features. The same
    bits come on every instruction set. There is no intercept: add a constant feature.

    Raises ShapeError for sizes, FormatError for settings.

    Example:
        >>> import numpy as np, rtaccel as rt
        >>> head = rt.online.RLSHead(features=2, outputs=1, forget=1.0, p0=100.0)
        >>> for x in np.random.default_rng(0).normal(size=(50, 2)):
        ...     error = head.learn_one(x, 3 * x[0] - x[1])
        >>> head.predict_one([1.0, 1.0]).round(2)
        array([2.], dtype=float32)
    """

    def __init__(
        self, features: int, outputs: int = 1, forget: float = 0.9999, p0: float = 0.1, d_max: float = 100.0
    ) -> None:
        super().__init__(features, outputs, p0=p0, noise=forget, forget=forget, d_max=d_max)
        self.forget, self.p0, self.d_max = float(forget), float(p0), float(d_max)

    def _settings(self) -> dict[str, Any]:
        names = ("features", "outputs", "forget", "p0", "d_max")
        return {name: getattr(self, name) for name in names}
