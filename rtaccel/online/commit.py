"""When a head that learns is served in place of the model it learns beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError


class Better:
    """Serves the head while its smoothed error is lower: rms(head) < (1 - threshold) * rms(model).

    threshold: the share by which the head must be better.
    halflife: of the smoothed errors, in labels.
    least: labels before the head may be served.

    Both errors are of what was, or would have been, served before the label came: squared, the mean over outputs, then an
    exponentially weighted mean that starts without bias. Raises FormatError for settings.

    Example:
        >>> from rtaccel.online import Better
        >>> rule = Better(0.05, halflife=10, least=2)
        >>> [rule.update(model=1.0, head=0.5) for _ in range(3)]
        [False, True, True]
    """

    def __init__(self, threshold: float = 0.05, halflife: float = 200, least: int = 20) -> None:
        for name, value, right in (
            ("threshold", threshold, isinstance(threshold, (int, float)) and 0 <= threshold < 1),
            ("halflife", halflife, isinstance(halflife, (int, float)) and 0 < halflife < 1e12),
            ("least", least, isinstance(least, int) and least >= 1),
        ):
            if not right:
                raise FormatError(
                    "Better",
                    f"{name}={value!r}",
                    "threshold in [0, 1), a positive halflife, least from 1",
                    f"Change {name}.",
                )
        self.threshold, self.halflife, self.least = float(threshold), float(halflife), least
        self._rate = 1.0 - 0.5 ** (1.0 / self.halflife)
        self.reset()

    def reset(self) -> None:
        """Nothing is known of either error."""
        self._labels = 0
        self._model = self._head = 0.0

    def update(self, model: float, head: float) -> bool:
        """Takes the mean squared errors of one label; whether the head is to be served from here on. Errors that are not
        finite are not taken: a head that gives some is not served."""
        if not np.isfinite(model):
            return self.holds
        if not np.isfinite(head):
            self.reset()
            return False
        self._labels += 1
        rate = max(self._rate, 1.0 / self._labels)
        self._model += rate * (model - self._model)
        self._head += rate * (head - self._head)
        return self.holds

    @property
    def holds(self) -> bool:
        """Whether the head is to be served."""
        return self._labels >= self.least and self._head < (1.0 - self.threshold) ** 2 * self._model

    @property
    def rms(self) -> tuple[float, float]:
        """The smoothed errors of the model and of the head, as root mean squares."""
        return float(np.sqrt(self._model)), float(np.sqrt(self._head))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """errors float64 [3]: labels, and the smoothed squares of model and head."""
        return {"errors": np.array([self._labels, self._model, self._head])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. Raises FormatError, with nothing changed, for one that is none."""
        errors = np.asarray(state.get("errors"))
        if set(state) != {"errors"} or errors.shape != (3,) or errors.dtype != np.float64:
            raise FormatError("Better", f"a state with {sorted(state)}", "errors float64 [3]", "Pass a state_dict().")
        if not np.isfinite(errors).all() or (errors < 0).any():
            raise FormatError("Better", f"errors {errors}", "finite numbers from 0", "Load an intact state.")
        self._labels, self._model, self._head = int(errors[0]), float(errors[1]), float(errors[2])
