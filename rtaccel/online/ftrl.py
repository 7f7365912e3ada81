"""A sparse linear model learned by FTRL-proximal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rtaccel import _native
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online.arrays import F32, describe, to_array
from rtaccel.online.ud_head import known_to_river

LOSSES = ("logistic", "squared")


class FTRLHead:
    """A linear model of sparse, hashed features, learned one sample at a time by follow-the-proximally-regularized-leader.

        w_i = 0 where |z_i| <= l1, else -(z_i - sign(z_i) l1) / ((beta + sqrt(n_i)) / alpha + l2)
        g_i = (prediction - y) x_i;  z_i += g_i - (sqrt(n_i + g_i^2) - sqrt(n_i)) / alpha * w_i;  n_i += g_i^2

    dimensions: features there may be; names are hashed into them (FNV-1a, the same in every process). 8 bytes each.
    alpha, beta: the learning rate of a feature is alpha / (beta + sqrt(n_i)).
    l1: a feature whose z stays below it has the weight 0.
    l2: the usual penalty.
    loss: "logistic" (y is 0 or 1, predictions are probabilities) or "squared".

    A sample is a dict of names to numbers, or to texts (then name and text are one feature of value 1), or a pair
    (indices int64 [k], values float32 [k]). McMahan and others, Ad Click Prediction: a View from the Trenches, KDD 2013.
    Raises ShapeError for sizes, FormatError for settings.

    Example:
        >>> from rtaccel.online import FTRLHead
        >>> head = FTRLHead(dimensions=2**16, alpha=0.5)
        >>> for _ in range(100):
        ...     p = head.learn_one({"site": "a", "hour": 0.3}, 1), head.learn_one({"site": "b", "hour": 0.3}, 0)
        >>> head.predict_one({"site": "a", "hour": 0.3}) > 0.9
        True
    """

    _supervised = True

    def __init__(
        self,
        dimensions: int = 2**20,
        alpha: float = 0.1,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        loss: str = "logistic",
    ) -> None:
        if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= 2**33:
            raise ShapeError("FTRLHead", f"dimensions={dimensions!r}", "a whole number from 1 to 2**33", "Change it.")
        if loss not in LOSSES:
            raise FormatError("FTRLHead", f"loss={loss!r}", " or ".join(map(repr, LOSSES)), "Choose one.")
        for name, value in (("alpha", alpha), ("beta", beta), ("l1", l1), ("l2", l2)):
            if not isinstance(value, (int, float)) or not 0 <= value < 1e9 or (name == "alpha" and value == 0):
                raise FormatError(
                    "FTRLHead", f"{name}={value!r}", "a number from 0 to 1e9, alpha above 0", "Change it."
                )
        if beta == 0 and l2 == 0:
            raise FormatError("FTRLHead", "beta=0 and l2=0", "one of them above 0", "Take beta=1.")
        try:
            self._native = _native.FtrlHead(dimensions, alpha, beta, l1, l2, loss == "logistic")
        except ValueError as error:
            raise ShapeError("FTRLHead", f"{dimensions} dimensions", "as many as fit memory", "Use fewer.") from error
        self.dimensions, self.loss = dimensions, loss
        self._rejected = self._learned = 0
        known_to_river(FTRLHead)

    def learn_one(self, x: Any, y: float, weight: float = 1.0) -> float:
        """Learns a sample and gives the error y - prediction before learning, a float.

        x: a dict, or (indices int64 [k], values float32 [k]).
        y: 0 or 1 (or a bool), any number for the squared loss.
        weight: of the sample.

        A value that is not finite or beyond 1e9, an index outside, or a label that is none changes nothing but `rejected`; the
        error is NaN then. Raises ShapeError for another form, FormatError for a value that is no number and no text.
        """
        target = float(y)
        if isinstance(x, Mapping):
            said = self._named(x, self._native.learn_named(dict(x), target, weight))
        else:
            said = self._native.learn(*self._pair(x), target, weight)
        learned, prediction = cast(tuple[bool, float], said)
        self._learned += learned
        self._rejected += not learned
        return target - prediction if learned else float("nan")

    def predict_one(self, x: Any) -> float:
        """The probability of 1, or the value for the squared loss; NaN for a sample that is not valid. x: as learn_one. Raises
        ShapeError, FormatError."""
        if isinstance(x, Mapping):
            return float(self._named(x, self._native.predict_named(dict(x))))
        return float(self._native.predict(*self._pair(x)))

    def hash(self, x: Mapping[str, Any]) -> list[int]:
        """The indices of a sample's features, in the order of the dict."""
        return cast(list[int], self._named(x, self._native.hash(dict(x))))

    @property
    def learned(self) -> int:
        """Samples that were learned."""
        return self._learned

    @property
    def rejected(self) -> int:
        """Samples that were not."""
        return self._rejected

    @property
    def nonzero(self) -> int:
        """Weights that are not 0."""
        return int(self._native.nonzero())

    @property
    def weights(self) -> F32:
        """w [dimensions] float32, a copy."""
        w = np.empty(self.dimensions, dtype=np.float32)
        self._native.weights(w)
        return w

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that was learned: z, n [dimensions] float32, counts [2] int64 (learned, rejected)."""
        z, n = np.empty((2, self.dimensions), dtype=np.float32)
        counts = np.empty(2, dtype=np.int64)
        self._native.save(z, n, counts)
        return {"z": z, "n": n, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. Raises FormatError, with nothing changed, for one that does not fit."""
        wanted = {"z": (np.float32, self.dimensions), "n": (np.float32, self.dimensions), "counts": (np.int64, 2)}
        if set(state) != set(wanted):
            raise FormatError("FTRLHead", f"a state with {sorted(state)}", "z, n, counts", "Pass a state_dict().")
        arrays = [np.ascontiguousarray(state[key]) for key in wanted]
        for (key, (dtype, size)), array in zip(wanted.items(), arrays, strict=True):
            if array.dtype != dtype or array.shape != (size,):
                raise FormatError(
                    "FTRLHead",
                    f"{key} {array.dtype} {list(array.shape)}",
                    f"{dtype.__name__} [{size}]",
                    "Load such a one.",
                )
        if not self._native.load(*arrays):
            raise FormatError(
                "FTRLHead", "numbers that are no state", "finite z, n not negative", "Load an intact one."
            )
        self._learned, self._rejected = (int(c) for c in arrays[2])

    def _named(self, x: Mapping[str, Any], result: Any) -> Any:
        if result is None:
            wrong = {k: v for k, v in x.items() if not isinstance(v, (str, int, float))}
            raise FormatError("FTRLHead", f"{wrong}", "numbers and texts", "Encode other values.")
        return result

    def _pair(self, x: Any) -> tuple[NDArray[np.int64], F32]:
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise ShapeError("FTRLHead", describe(x), "a dict, or (indices, values)", "Pass one of them.")
        indices, values = (to_array("FTRLHead", "x", part, (None,)) for part in x)
        if indices.ndim != 1 or indices.shape != values.shape or (indices.size and indices.dtype.kind not in "iu"):
            raise ShapeError(
                "FTRLHead",
                f"indices {describe(indices)}, values {describe(values)}",
                "whole numbers [k] and numbers [k]",
                "Pass as many values as indices.",
            )
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(indices, dtype=np.int64), np.ascontiguousarray(values, dtype=np.float32)
