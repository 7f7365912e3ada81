"""The last layer of a tapped plan, which takes up what a head has learned while the plan runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online.arrays import F32, describe


class PlanWeights:
    """Serves weights of a head [outputs, n], or [outputs, n + 1] with a constant feature, as a part of a compiled model.

    fast: a compiled model that gives (output, features), whose output is a linear layer of the features in float32 with nothing
        behind it. Raises UnsupportedProblem for others.
    """

    def __init__(self, fast: Any) -> None:
        from rtaccel.runtime.compiled import CompiledModel
        from rtaccel.runtime.tap import last_layer

        if not isinstance(fast, CompiledModel):
            raise UnsupportedProblem("Adapt", f"serve='plan' with {describe(fast)}", "a compiled model", "Compile it.")
        weight, bias = last_layer(fast)
        self._fast, self._weight, self._bias = fast, weight, bias
        self._state = fast.state_dict()
        self._w = self._state[weight].numpy().astype(np.float64)
        self._b = self._state[bias].numpy().astype(np.float64)
        self.served: F32 | None = None
        """The head's weights that the plan has now; None: those it was compiled with."""

    def base(self, features: F32) -> F32:
        """What the model gave as it was compiled, [batch, outputs], up to rounding: w features + b, summed in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (features.astype(np.float64) @ self._w.T + self._b).astype(np.float32)

    def check(self, y: F32, features: F32) -> None:
        """Raises ShapeError for a call that this plan cannot have made."""
        outputs, n = self._w.shape
        if y.shape != (len(features), outputs) or features.shape[1] != n:
            raise ShapeError(
                "Adapt",
                f"y {list(y.shape)}, features {list(features.shape)}",
                f"[batch, {outputs}] and [batch, {n}], as the model gives",
                "Pass what the tapped model gave.",
            )

    def serve(self, w: F32) -> None:
        """Takes up a head's weights, from the next call on. Raises ShapeError for those of another size."""
        outputs, n = self._w.shape
        if w.shape not in ((outputs, n), (outputs, n + 1)):
            raise ShapeError(
                "Adapt", f"a head {list(w.shape)}", f"[{outputs}, {n}] or {n + 1}", "Make it of that size."
            )
        import torch

        state = dict(self._state)
        state[self._weight] = torch.from_numpy((self._w + w[:, :n]).astype(np.float32))
        if w.shape[1] > n:
            state[self._bias] = torch.from_numpy((self._b + w[:, n]).astype(np.float32))
        self._fast.swap(state)
        self.served = w.copy()

    def restore(self) -> None:
        """The weights that it was compiled with, bit for bit."""
        self._fast.swap(self._state)
        self.served = None

    def put(self, w: F32 | None) -> None:
        """What a state says is served."""
        if w is not None:
            self.serve(w)
        elif self.served is not None:
            self.restore()

    def parsed(self, state: Mapping[str, Any] | None) -> F32 | None:
        """The weights in a state; raises FormatError for some that are none. Nothing is changed."""
        if state is None:
            return None
        w = np.asarray(state.get("w"))
        outputs, n = self._w.shape
        if set(state) != {"w"} or w.dtype != np.float32 or w.shape not in ((outputs, n), (outputs, n + 1)):
            raise FormatError(
                "Adapt", f"plan.w {describe(w)}", f"float32 [{outputs}, {n}] or {n + 1}", "Load its state."
            )
        if not np.isfinite(w).all():
            raise FormatError("Adapt", "plan.w with NaN or infinities", "finite weights", "Load an intact state.")
        return w.copy()
