"""A Kalman filter whose state is the weights of a linear model."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online.arrays import as_float32
from rtaccel.online.ud_head import UdHead, positive


class KalmanHead(UdHead):
    """A linear model whose weights walk at random, as a Kalman filter in UD form.

        w_t = w_{t-1} + N(0, diag(process_noise)),   y_t = w_t phi_t + N(0, noise)

    features: the size of phi, up to 4096.
    outputs: the size of y; outputs share P, so they share `noise`.
    process_noise: how much the variance of each weight grows a sample, a number or float32 [features]; 0 forgets nothing.
    noise: the variance of y's noise.
    p0: the variance of w in the beginning.
    every: the process noise of so many samples is added at once.
    d_max: bound on D, none by default.

    Learning costs features^2, adding noise features^3 / 3 multiplications (Agee and Turner's update for each feature): use
    `every` for wide heads. `variance_one` is in the units of y squared. Raises ShapeError for sizes, FormatError for settings.

    Example:
        >>> import numpy as np, rtaccel as rt
        >>> head = rt.online.KalmanHead(features=1, noise=0.01, process_noise=1e-4)
        >>> for t in range(200):
        ...     error = head.learn_one([1.0], [0.01 * t])
        >>> bool(abs(error[0]) < 0.15)
        True
    """

    def __init__(
        self,
        features: int,
        outputs: int = 1,
        process_noise: Any = 1e-6,
        noise: float = 1.0,
        p0: float = 1.0,
        every: int = 1,
        d_max: float | None = None,
    ) -> None:
        positive("KalmanHead", noise=noise, p0=p0)
        bound = float(np.finfo(np.float32).max) if d_max is None else d_max
        super().__init__(features, outputs, p0=p0, noise=noise, forget=1.0, d_max=bound)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise FormatError("KalmanHead", f"every={every!r}", "a whole number from 1", "Take 1 for each sample.")
        if np.ndim(process_noise) == 0:
            process_noise = np.full(self.features, process_noise, dtype=np.float32)
        q = as_float32("KalmanHead", "process_noise", process_noise, (self.features,)).copy()
        if not np.isfinite(q * np.float32(every)).all() or (q < 0).any():
            raise FormatError(
                "KalmanHead", f"process_noise from {q.min()} to {q.max()}", "finite, not negative", "Change it."
            )
        if not self._native.process_noise(q, every):
            raise ShapeError("KalmanHead", "no memory for process_noise", "some", "Make a smaller head.")
        self.process_noise, self.noise, self.p0, self.every, self.d_max = q, float(noise), float(p0), every, d_max

    def _settings(self) -> dict[str, Any]:
        names = ("features", "outputs", "process_noise", "noise", "p0", "every", "d_max")
        return {name: getattr(self, name) for name in names}
